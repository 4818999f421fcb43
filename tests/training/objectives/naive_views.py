"""The objectives on views, tokens, negatives and a teacher, as their equations stand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from entries import Entry, Tensors, units
from torch import Tensor

Settings = Mapping[str, Any]


def rows_of(tensors: Tensors) -> list[int]:
    """The rows that have a text."""
    return [i for i, mask in enumerate(tensors["text_mask"]) if mask.any()]


def slots_of(tensors: Tensors, row: int) -> list[int]:
    return [k for k, there in enumerate(tensors["text_mask"][row]) if there]


def strangers(tensors: Tensors, i: int) -> list[int]:
    """The rows that are negatives of row i."""
    group = tensors["group_id"]
    return [j for j in rows_of(tensors) if j != i and not (group[i] == group[j] >= 0)]


def entropy(positive: Tensor, negatives: list[Tensor]) -> Tensor:
    """-log(exp p / (exp p + Σ exp n))."""
    return torch.logsumexp(torch.stack([positive, *negatives]), 0) - positive


def mean(values: list[Tensor], of: Tensors) -> Tensor:
    return torch.stack(values).mean() if values else of["image"].sum() * 0


def self_supervised(tensors: Tensors, settings: Settings, form: str) -> Tensor:
    s, losses = tensors["logit_scale"], []
    text = [tensors["text"][i, min(slots_of(tensors, i), default=0)] for i in range(len(tensors["text"]))]
    for own, views in ((tensors["image"], tensors["image_views"]), (text, tensors["text_views"])):
        for v in range(views.shape[1]):
            for i in rows_of(tensors):
                others = [s * (own[i] @ views[j, v]) for j in strangers(tensors, i)]
                losses.append(entropy(s * (own[i] @ views[i, v]), others))
    return mean(losses, tensors)


def holes_of(tensors: Tensors, *shape: int, random: torch.Generator) -> Tensor:
    """A mask [B, *shape], or [B, 1, *shape] of one size; without holes where the texts have none."""
    shape = shape if len(shape) > 1 else (1, *shape)
    mask = torch.rand(len(tensors["image"]), *shape, generator=random) > 0.3
    mask[0], mask[2:3, 0] = True, False
    return mask | tensors["text_mask"].all()


def with_views(tensors: dict[str, Any], random: torch.Generator) -> dict[str, Any]:
    rows, width = tensors["image"].shape
    return {name: units(rows, 2, width, random=random) for name in ("image_views", "text_views")}


def intra_modal(tensors: Tensors, settings: Settings, form: str) -> Tensor:
    losses = []
    image = tensors["teacher_image_views"][:, 0] if settings.get("other_view", True) else tensors["teacher_image"]
    for i in rows_of(tensors):
        first = slots_of(tensors, i)[0]
        taught = {i: image[i] for i in rows_of(tensors)}
        losses.append(in_memory(tensors, tensors["image"][i], i, taught, "queue_image"))
        for j in rows_of(tensors):
            one, *more = slots_of(tensors, j)
            taught[j] = tensors["teacher_text"][j, more[0] if more and settings.get("other_text") else one]
        losses.append(in_memory(tensors, tensors["text"][i, first], i, taught, "queue_text"))
    return mean(losses, tensors)


def in_memory(tensors: Tensors, own: Tensor, i: int, taught: Mapping[int, Tensor], queue: str) -> Tensor:
    """One row against the teacher's batch and a queue."""
    s, ids, group = tensors["logit_scale"], tensors["sample_id"], tensors["group_id"]
    others = [s * (own @ taught[j]) for j in strangers(tensors, i)]
    for q, earlier in enumerate(tensors.get(queue, [])):
        itself = tensors["queue_id"][q] == ids[i] or tensors["queue_group"][q] == group[i] >= 0
        if earlier.any() and not itself:
            others.append(s * (own @ earlier))
    return entropy(s * (own @ taught[i]), others)


def negatives_of(tensors: Tensors, i: int) -> list[int]:
    return [n for n, there in enumerate(tensors["neg_mask"][i]) if there] if i in rows_of(tensors) else []


def image_grounded(tensors: Tensors, settings: Settings, form: str) -> Tensor:
    s, losses = tensors["logit_scale"], []
    for i in rows_of(tensors):
        wrong = [s * (tensors["image"][i] @ tensors["neg_text"][i, n]) for n in negatives_of(tensors, i)]
        for k in slots_of(tensors, i):
            losses += [entropy(s * (tensors["image"][i] @ tensors["text"][i, k]), wrong)] if wrong else []
    return mean(losses, tensors)


def text_grounded(tensors: Tensors, settings: Settings, form: str) -> Tensor:
    s, losses = settings.get("scale", 10.0), []
    rows, count = tensors["neg_mask"].shape
    for i in rows_of(tensors):
        own = [(i, n) for n in range(count)]
        if form == "released":
            own = [divmod(i + n * rows, count) for n in range(count)]
        wrong = [(j, n) for j, n in own if n in negatives_of(tensors, j)]
        for k in slots_of(tensors, i):
            text = tensors["text"][i, k]
            against = [s * (text @ tensors["neg_text"][j, n]) for j, n in wrong]
            losses += [entropy(s * (text @ tensors["teacher_text"][i, k]), against)] if wrong else []
    return mean(losses, tensors)


def ema_distill(tensors: Tensors, settings: Settings, form: str) -> Tensor:
    losses = []
    for i in rows_of(tensors):
        pairs = [(tensors["image"][i], tensors["teacher_image"][i])]
        pairs += [(tensors["text"][i, k], tensors["teacher_text"][i, k]) for k in slots_of(tensors, i)]
        if settings.get("negatives", True):
            pairs += [(tensors["neg_text"][i, n], tensors["teacher_neg_text"][i, n]) for n in negatives_of(tensors, i)]
        losses.append(sum((one - other).pow(2).sum() for one, other in pairs))
    return mean(losses, tensors) * (len(losses) if form == "released" else 1)


def with_negatives(tensors: Tensors, settings: Settings, form: str) -> Tensor:
    s, image, text, losses = tensors["logit_scale"], tensors["image"], tensors["text"][:, 0], []
    first = {**tensors, "text_mask": tensors["text_mask"][:, :1]}
    for i in rows_of(first):
        own, others = s * (image[i] @ text[i]), strangers(first, i)
        wrong = [tensors["neg_text"][j, n] for j in [i, *others] for n in negatives_of(first, j)]
        losses.append(entropy(own, [s * (image[i] @ t) for t in [*(text[j] for j in others), *wrong]]))
        losses.append(entropy(own, [s * (image[j] @ text[i]) for j in others]))
    return mean(losses, tensors)


def with_teacher(tensors: dict[str, Any], random: torch.Generator) -> dict[str, Any]:
    found = {f"teacher_{name}": units(*tensors[name].shape, random=random).detach() for name in ("image", "text")}
    views = units(*tensors["image_views"].shape, random=random).detach() if "image_views" in tensors else None
    return found if views is None else {**found, "teacher_image_views": views}


def with_queues(tensors: dict[str, Any], random: torch.Generator) -> dict[str, Any]:
    found = with_views(tensors, random)
    found |= with_teacher({**tensors, **found}, random)
    for name in ("queue_image", "queue_text"):
        found[name] = units(6, tensors["image"].shape[1], random=random).detach()
        found[name][4] = 0  # nothing was put there yet
    # Two of them are rows of this batch, one is in a group of it.
    ids = torch.tensor([*tensors["sample_id"][:2].tolist(), 999, 998, -1, 997])
    group = torch.tensor([-1, -1, tensors["group_id"].max().item(), -1, -1, 77])
    return {**found, "queue_id": ids, "queue_group": group}


def with_wrong_texts(tensors: dict[str, Any], random: torch.Generator) -> dict[str, Any]:
    rows, width = tensors["image"].shape
    mask = holes_of(tensors, 4, random=random)[:, 0]
    found = {"neg_text": units(rows, 4, width, random=random), "neg_mask": mask, **with_teacher(tensors, random)}
    return {**found, "teacher_neg_text": units(rows, 4, width, random=random).detach()}


def pooled(patches: Tensor) -> list[Tensor]:
    """Means over cells of ⌊√side⌋ patches a side; those that make no cell are left out."""
    side = math.isqrt(len(patches))
    wide = math.isqrt(side)
    begins = [c * wide for c in range(side // wide)]
    grid = patches.reshape(side, side, -1)
    return [grid[top : top + wide, left : left + wide].mean((0, 1)) for top in begins for left in begins]


def local_mi(tensors: Tensors, settings: Settings, form: str) -> Tensor:
    s, images, texts = tensors["logit_scale"], [], []
    cells = [pooled(patches) for patches in tensors["teacher_image_tokens"]]
    words = [
        [[v for v, t in zip(*slot, strict=True) if t] for slot in zip(*row, strict=True)]
        for row in zip(tensors["teacher_text_tokens"], tensors["text_token_mask"], strict=True)
    ]
    for i in rows_of(tensors):
        others = strangers(tensors, i)
        image = tensors["image"][i]
        far = [s * (image @ part) for j in others for part in cells[j]]
        images.append(torch.stack([entropy(s * (image @ part), far) for part in cells[i]]).mean())
        for k in slots_of(tensors, i):
            text = tensors["text"][i, k]
            far = [s * (text @ part) for j in others for slot in slots_of(tensors, j) for part in words[j][slot]]
            near = [entropy(s * (text @ part), far) for part in words[i][k]]
            texts += [torch.stack(near).mean()] if near else []
    return (mean(images, tensors) + mean(texts, tensors)) / 2


def grouped(tensors: Tensors, i: int, text: Tensor, settings: Settings) -> Tensor:
    """The patches of image i gathered for a text."""
    patches, least = tensors["image_tokens"][i], settings.get("threshold", 0.0)
    near = torch.stack([text @ patch for patch in patches])
    near = (
        near.softmax(0) if settings.get("normalise") == "softmax" else (near - near.min()) / (near.max() - near.min())
    )
    least = 1 / len(patches) if least < 0 else least
    kept = torch.stack([n if n >= least else n * 0 for n in near])
    found = sum(w * patch for w, patch in zip(kept / kept.sum(), patches, strict=True))
    return found / found.norm()


def paired(tensors: Tensors, settings: Settings, form: str) -> list[tuple[int, Tensor, Tensor]]:
    """(image, text, patches for it) of all texts; the released code reads texts in another order than they lie."""
    rows, slots = tensors["text_mask"].shape
    found = []
    for at in range(rows * slots):
        i, (row, slot) = at // slots, (divmod(at, slots) if form == "paper" else divmod(at, rows)[::-1])
        if i in rows_of(tensors) and tensors["text_mask"][row, slot]:
            text = tensors["text"][row, slot]
            found.append((i, text, grouped(tensors, i, text, settings)))
    return found


def grouping(tensors: Tensors, settings: Settings, form: str) -> Tensor:
    s, losses = tensors["local_scale"].exp(), []
    pairs = paired(tensors, settings, form)
    for a, (i, text, patches) in enumerate(pairs):
        for b, c in ((patches, 1), (text, 2)):
            others = [p for o, p in enumerate(pairs) if o != a and (p[0] == i or p[0] in strangers(tensors, i))]
            losses.append(entropy(s * (patches @ text), [s * (b @ p[c]) for p in others]))
    return mean(losses, tensors)


def instance(tensors: Tensors, settings: Settings, form: str) -> Tensor:
    s, losses = tensors["local_scale"].exp(), []
    pairs = paired(tensors, settings, form)
    for a, (i, text, patches) in enumerate(pairs):
        for b, c in ((patches, 1), (text, 2)):
            others = [p for o, p in enumerate(pairs) if o != a and p[0] == i]
            losses.append(entropy(s * (patches @ text), [s * (b @ p[c]) for p in others]))
    return mean(losses, tensors)


def with_tokens(tensors: dict[str, Any], random: torch.Generator) -> dict[str, Any]:
    rows, slots, width = tensors["text"].shape
    mask = holes_of(tensors, slots, 4, random=random)
    found = {"image_tokens": units(rows, 9, width, random=random)}
    found["text_tokens"] = units(rows, slots, 4, width, random=random)
    taught = {f"teacher_{n}": units(*value.shape, random=random).detach() for n, value in found.items()}
    scale = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    return {**found, **taught, **with_teacher(tensors, random), "text_token_mask": mask, "local_scale": scale}


def with_local_mi(tensors: dict[str, Any], random: torch.Generator) -> dict[str, Any]:
    return {name: value for name, value in with_tokens(tensors, random).items() if name != "local_scale"}


# spares_groups is false where an image has other candidates than the rows, which may push it anywhere, or none at all.
# What one row of a group is to another is compared with the references.
ENTRIES = [
    Entry("local_mi", local_mi, more=with_local_mi, aligns=False),
    Entry(
        "grouping",
        grouping,
        ({}, {"threshold": 0.4}, {"normalise": "softmax", "threshold": -1}),
        ("paper", "released"),
        more=with_tokens,
        aligns=False,
    ),
    Entry("instance", instance, ({}, {"threshold": 0.4}), more=with_tokens, aligns=False, mixes_rows=False),
    Entry(
        "intra_modal",
        intra_modal,
        ({"queue_size": 6}, {"queue_size": 6, "other_view": False, "other_text": True}),
        more=with_queues,
        aligns=False,
        spares_groups=False,
        slots_alike=False,
    ),
    Entry("image_grounded", image_grounded, more=with_wrong_texts, spares_groups=False, mixes_rows=False),
    Entry(
        "text_grounded",
        text_grounded,
        ({}, {"scale": 3.0}),
        ("paper", "released"),
        with_wrong_texts,
        aligns=False,
        mixes_rows=False,
    ),
    Entry(
        "ema_distill",
        ema_distill,
        ({}, {"negatives": False}),
        ("paper", "released"),
        with_wrong_texts,
        aligns=False,
        spares_groups=False,
        mixes_rows=False,
    ),
    Entry("with_negatives", with_negatives, more=with_wrong_texts, spares_groups=False, slots_alike=False),
    Entry(
        "self_supervised",
        self_supervised,
        more=with_views,
        at_chance=lambda rows, slots: math.log(rows),
        # Images and texts do not meet.
        aligns=False,
        slots_alike=False,
    ),
]
