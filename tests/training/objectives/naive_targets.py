"""Objectives whose targets are not only an image's own texts, as their equations stand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from entries import Entry, Tensors, units
from naive_contrastive import logits_of, softmax_both_ways, texts_of
from torch import Tensor


def cross_entropies(logits: Tensor, over_texts: Tensor, over_images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over images and mean over texts of -Σ target · log softmax; logits and targets [N, C]."""
    rows = -(over_texts * logits.log_softmax(1).masked_fill(over_texts == 0, 0)).sum(1)
    texts = -(over_images * logits.log_softmax(0).masked_fill(over_images == 0, 0)).sum(0)
    return rows.mean(), texts.mean()


def shares(weight: Tensor, dim: int) -> Tensor:
    return weight / weight.sum(dim, keepdim=True)


def label_smoothing(tensors: Tensors, settings: Mapping[str, Any], form: str) -> Tensor:
    logits, own, excluded = logits_of(tensors, slice(0, 1))
    smoothing = settings.get("smoothing", 0.1)
    targets = [(1 - smoothing) * own.double() + smoothing * shares((~excluded).double(), dim) for dim in (1, 0)]
    return sum(cross_entropies(logits, *targets)) / 2  # type: ignore[return-value]


def taught_logits(tensors: Tensors, excluded: Tensor) -> Tensor:
    text, _, rows = texts_of({**tensors, "text": tensors["teacher_text"]})
    logits = tensors["teacher_logit_scale"] * tensors["teacher_image"][rows] @ text.T
    return logits.masked_fill(excluded, -torch.inf)


def distill(tensors: Tensors, settings: Mapping[str, Any], form: str) -> Tensor:
    logits, own, excluded = logits_of(tensors)
    temperature = settings.get("temperature", 1.0)
    taught = taught_logits(tensors, excluded).detach() / temperature
    parts = [settings.get("hard", 0.0) * softmax_both_ways(logits, own)]
    for dim in (1, 0):
        target = taught.softmax(dim)
        gap = -(logits / temperature).log_softmax(dim)
        if form == "paper":
            gap = gap + taught.log_softmax(dim)
        each = (target * gap.masked_fill(excluded, 0)).sum(dim)
        parts.append(settings.get("soft", 1.0) * temperature**2 * each.mean() / 2)
    return torch.stack(parts).sum()


def cwcl(tensors: Tensors, settings: Mapping[str, Any], form: str) -> Tensor:
    logits, own, excluded = logits_of(tensors)
    _, of_row, rows = texts_of(tensors)
    seen = tensors["teacher_image"].detach()
    weight = (0.5 + seen[rows] @ seen[of_row].T / 2 - settings.get("threshold", 0.0)).clamp(min=0)
    weight = (weight ** settings.get("power", 1.0)).masked_fill(excluded, 0)
    return sum(cross_entropies(logits, shares(weight, 1), own.double()))  # type: ignore[return-value]


def jaccard(tensors: Tensors, settings: Mapping[str, Any], form: str) -> Tensor:
    logits, own, excluded = logits_of(tensors)
    _, of_row, rows = texts_of(tensors)
    tags = [{tag for tag in row if tag >= 0} for row in tensors["tags"].tolist()]
    weight = torch.zeros_like(logits)
    for i, row in enumerate(rows.tolist()):
        for c, other in enumerate(of_row.tolist()):
            either = tags[row] | tags[other]
            weight[i, c] = len(tags[row] & tags[other]) / len(either) if either else float(row == other)
    weight = weight.masked_fill(excluded, 0)
    return sum(cross_entropies(logits, shares(weight, 1), own.double()))  # type: ignore[return-value]


def sdm(tensors: Tensors, settings: Mapping[str, Any], form: str) -> Tensor:
    text, of_row, rows = texts_of(tensors)
    label = [group if group >= 0 else f"row {row}" for row, group in enumerate(tensors["group_id"].tolist())]
    logits = tensors["logit_scale"] * tensors["image"][rows] @ text.T
    positive = [[float(label[row] == label[other]) for other in of_row.tolist()] for row in rows.tolist()]
    total = torch.zeros((), dtype=torch.float64)
    for dim in (1, 0):
        target = shares(torch.tensor(positive, dtype=torch.float64), dim) + settings.get("epsilon", 1e-8)
        total = total + (logits.softmax(dim) * (logits.log_softmax(dim) - target.log())).sum(dim).mean()
    return total


def circle(tensors: Tensors, settings: Mapping[str, Any], form: str) -> Tensor:
    text, _, rows = texts_of(tensors)
    _, own, excluded = logits_of(tensors)
    cosine = tensors["image"][rows] @ text.T
    gamma, margin = settings.get("gamma", 32.0), settings.get("margin", 0.25)
    each = []
    for s, mine, out in zip(cosine, own, excluded, strict=True):
        s_p, s_n = s[mine], s[~mine & ~out]
        alpha_p, alpha_n = (1 + margin - s_p).detach().clamp(min=0), (s_n + margin).detach().clamp(min=0)
        positives = torch.exp(-gamma * alpha_p * (s_p - (1 - margin))).sum()
        negatives = torch.exp(gamma * alpha_n * (s_n - margin)).sum()
        each.append(torch.log1p(positives * negatives))
    return torch.stack(each).mean() / (10 if form == "released" else 1)


def momentum(tensors: Tensors, settings: Mapping[str, Any], form: str) -> Tensor:
    text, _, rows = texts_of(tensors)
    taught, _, _ = texts_of({**tensors, "text": tensors["teacher_text"]})
    _, own, excluded = logits_of(tensors)
    seen, scale = tensors["teacher_image"], tensors["logit_scale"]
    alpha = settings.get("alpha", 0.4)
    queue_text = [t for row in tensors["queue_text"] for t in row if t.any()]
    queue_image = [x for x in tensors["queue_image"] if x.any()]

    def one_way(student: Tensor, teacher: Tensor, keys: Tensor, queue: list[Tensor], pairs: list[Tensor]) -> Tensor:
        keys = torch.cat([keys, torch.stack(queue)])
        hard, out = (F.pad(pair, (0, len(queue))) for pair in pairs)
        soft = (scale * teacher @ keys.T).masked_fill(out, -torch.inf).softmax(1).detach()
        target = (1 - alpha) * shares(hard.double(), 1) + alpha * soft
        logits = (scale * student @ keys.T).masked_fill(out, -torch.inf)
        return -(target * logits.log_softmax(1).masked_fill(out, 0)).sum(1).mean()

    image_to_text = one_way(tensors["image"][rows], seen[rows], taught, queue_text, [own, excluded])
    text_to_image = one_way(text, taught, seen[rows], queue_image, [own.T, excluded.T])
    return (image_to_text + text_to_image) / 2


def noise_adaptive(tensors: Tensors, settings: Mapping[str, Any], form: str) -> Tensor:
    logits, own, excluded = logits_of(tensors)
    mask = tensors["text_mask"]
    given = tensors["noise_prob"][mask.nonzero(as_tuple=True)]
    wrong = settings.get("strength", 0.5) * torch.where(given >= 0, given, 0)
    over_texts, over_images = torch.zeros_like(logits), torch.zeros_like(logits)
    for i, mine in enumerate(own):
        others = ~mine & ~excluded[i]
        over_texts[i] = torch.where(mine, (1 - wrong) / mine.sum(), 0)
        missing = (wrong * mine).sum() / mine.sum()
        over_texts[i][others if others.any() else mine] += missing / max(1, int(others.sum() or mine.sum()))
    for c, mine in enumerate(own.T):
        others = ~mine & ~excluded[:, c]
        over_images[:, c] = torch.where(mine, 1 - wrong[c], 0)
        over_images[others if others.any() else mine, c] += wrong[c] / max(1, int(others.sum() or mine.sum()))
    return sum(cross_entropies(logits, over_texts, over_images)) / 2  # type: ignore[return-value]


def with_queue(tensors: dict[str, Any], random: torch.Generator) -> dict[str, Any]:
    """A moving average's embeddings, and queues of five rows, one of them without a second text."""
    rows, slots, width = tensors["text"].shape
    queue = units(5, slots, width, random=random).detach()
    queue[3, 1:] = 0
    return {
        "teacher_image": units(rows, width, random=random).detach(),
        "teacher_text": units(rows, slots, width, random=random).detach(),
        "queue_image": units(5, width, random=random).detach(),
        "queue_text": queue,
    }


def with_noise(tensors: dict[str, Any], random: torch.Generator) -> dict[str, Any]:
    """A probability of noise for most texts."""
    given = torch.rand(tensors["text_mask"].shape, generator=random, dtype=torch.float64)
    given[2:3] = torch.nan
    given[3:4] = -1
    return {"noise_prob": given}


def with_teacher(tensors: dict[str, Any], random: torch.Generator) -> dict[str, Any]:
    """A teacher that knows the pairs a little."""
    rows, slots = tensors["text_mask"].shape
    image = units(rows, 5, random=random).detach()
    text = F.normalize(image[:, None] + units(rows, slots, 5, random=random).detach(), dim=-1)
    scale = torch.tensor(4.0, dtype=torch.float64)
    return {"teacher_image": image, "teacher_text": text, "teacher_logit_scale": scale}


def with_tags(tensors: dict[str, Any], random: torch.Generator) -> dict[str, Any]:
    """Up to four of six tags, some of them twice; one picture has none."""
    tags = torch.randint(-1, 6, (len(tensors["image"]), 4), generator=random)
    tags[-1] = -1
    return {"tags": tags}


ENTRIES = [
    Entry(
        "label_smoothing",
        label_smoothing,
        settings=({}, {"smoothing": 0.4}),
        clip_where={"smoothing": 0.0},
        at_chance=lambda rows, slots: math.log(rows),
        slots_alike=False,
    ),
    # Its optimum is the teacher, not the alignment of pairs.
    Entry(
        "distill",
        distill,
        settings=({}, {"hard": 0.3, "soft": 0.7, "temperature": 2.0}, {"hard": 1.0}),
        forms=("paper", "released"),
        more=with_teacher,
        aligns=False,
    ),
    Entry(
        "cwcl",
        cwcl,
        settings=({}, {"threshold": 0.6, "power": 2.0}),
        more=with_teacher,
        at_chance=lambda rows, slots: math.log(rows * slots) + math.log(rows),
    ),
    # An image near a text of the teacher is not the nearer to those of the queue: nothing is known of its optimum.
    Entry("momentum", momentum, settings=({"queue": 5}, {"queue": 5, "alpha": 0.0}), more=with_queue, aligns=False),
    Entry(
        "noise_adaptive",
        noise_adaptive,
        settings=({"table": 64}, {"table": 64, "strength": 1.0}),
        more=with_noise,
        at_chance=lambda rows, slots: (math.log(rows * slots) + math.log(rows)) / 2,
    ),
    Entry("sdm", sdm, settings=({}, {"epsilon": 1e-3})),
    Entry("circle", circle, settings=({}, {"gamma": 8.0, "margin": 0.4}), forms=("paper", "released")),
    Entry(
        "jaccard",
        jaccard,
        more=with_tags,
        at_chance=lambda rows, slots: math.log(rows * slots) + math.log(rows),
    ),
]
