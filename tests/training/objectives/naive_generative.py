"""The objectives that predict tokens, or prototypes of an average or of the other modality, as equations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from entries import Entry, Tensors, units
from naive_terms import PROJECTED, projected, with_heads
from torch import Tensor

Settings = Mapping[str, Any]

#: Tokens, words, prototypes, views and patches.
L, V, C, VIEWS, P = 5, 9, 6, 2, 4


def mean(values: list[Tensor], of: Tensors) -> Tensor:
    return torch.stack(values).mean() if values else of["image"].sum() * 0


def slots_of(tensors: Tensors, i: int) -> list[int]:
    return [k for k, there in enumerate(tensors["text_mask"][i]) if there]


def rows_of(tensors: Tensors) -> list[int]:
    return [i for i in range(len(tensors["image"])) if slots_of(tensors, i)]


def captioning(tensors: Tensors, settings: Settings, form: str) -> Tensor:
    losses = []
    for i in rows_of(tensors):
        for k in slots_of(tensors, i):
            for place in range(L):
                label = int(tensors["caption_labels"][i, k, place])
                if label >= 0:
                    shares = tensors["caption_logits"][i, k, place].exp()
                    losses.append(-(shares[label] / shares.sum()).log())
    return mean(losses, tensors)


def with_captions(tensors: dict[str, Any], random: torch.Generator) -> dict[str, Any]:
    shape = (*tensors["text_mask"].shape, L)
    labels = torch.randint(0, V, shape, generator=random)
    labels[..., 0] = -100  # nothing predicts a text's first token
    if not tensors["text_mask"].all():
        lengths = torch.randint(1, L + 1, shape[:2], generator=random)
        labels[torch.arange(L) >= lengths[..., None]] = -100
    logits = torch.randn(*shape, V, generator=random, dtype=torch.float64).requires_grad_()
    return {"caption_labels": labels, "caption_logits": logits}


def unit(tensors: Tensors, head: str, vector: Tensor) -> Tensor:
    found = projected(tensors, head, vector)
    return found / found.norm()


def predicted(tensors: Tensors, student: Tensor, taught: Tensor, settings: Settings) -> Tensor:
    """Cross-entropy of one softmax over the prototypes with another."""
    student, taught = unit(tensors, "head", student), unit(tensors, "head", taught)
    cosines = [[v @ (c / c.norm()) for c in tensors["prototypes"]] for v in (student, taught)]
    logits = torch.stack(cosines[0]) / settings.get("temperature", 0.1)
    target = (torch.stack(cosines[1]) - tensors["centre"]) / settings.get("teacher_temperature", 0.04)
    return -(target.softmax(0).detach() * logits.log_softmax(0)).sum()


def local_global(tensors: Tensors, settings: Settings, form: str) -> Tensor:
    losses = [
        predicted(tensors, tensors["image_views"][i, v], tensors["teacher_image"][i], settings)
        for i in rows_of(tensors)
        for v in range(VIEWS)
    ]
    return mean(losses, tensors)


def masked_prediction(tensors: Tensors, settings: Settings, form: str) -> Tensor:
    losses = [
        predicted(tensors, tensors["masked_image_tokens"][i, p], tensors["teacher_image_tokens"][i, p], settings)
        for i in rows_of(tensors)
        for p in range(P)
        if tensors["image_token_hidden"][i, p]
    ]
    return mean(losses, tensors)


def with_prototypes(**tensors: tuple[int, ...]) -> Callable[..., dict[str, Any]]:
    """The head, prototypes and centre, and unit vectors [B, …, D] by name, of a teacher without gradient."""
    heads = with_heads(("head", 0, 3))

    def add(basic: dict[str, Any], random: torch.Generator) -> dict[str, Any]:
        rows, width = basic["image"].shape
        found = heads(basic, random)
        found["prototypes"] = torch.randn(C, PROJECTED, generator=random).double().requires_grad_()
        found["centre"] = 0.3 * torch.randn(C, generator=random).double()
        for name, shape in tensors.items():
            made = units(rows, *shape, width, random=random)
            found[name] = made.detach() if name.startswith("teacher_") else made
        if "masked_image_tokens" in tensors:
            # Without holes every row hides as many.
            hidden = torch.rand(rows, P, generator=random) > 0.5
            found["image_token_hidden"] = torch.arange(P) < 2 if basic["text_mask"].all() else hidden
            found["image_token_hidden"] = found["image_token_hidden"].expand(rows, P)
        return found

    return add


def prototype(tensors: Tensors, settings: Settings, form: str) -> Tensor:
    scale, losses = tensors["log_scale"].exp().sum(), []
    if not tensors["rounds"]:
        return mean(losses, tensors)
    for i in rows_of(tensors):
        image, own = unit(tensors, "image", tensors["image"][i]), []
        for k in slots_of(tensors, i):
            text, both = unit(tensors, "text", tensors["text"][i, k]), 0
            for student, other, of, translated in (
                (image, text, "text_centroids", "image_of_text"),
                (text, image, "image_centroids", "text_of_image"),
            ):
                apart = [float((other.detach() - c).square().sum()) for c in tensors[of]]
                label = apart.index(min(apart))
                near = torch.stack([tensors[of][label] @ c for c in tensors[of]])
                target = (near / settings.get("target_temperature", 0.01)).softmax(0)
                shares = torch.stack([scale * student @ c for c in tensors[translated]]).log_softmax(0)
                both = both - (target * shares).sum() / 2
            own.append(both)
        losses.append(torch.stack(own).mean())
    return mean(losses, tensors)


def with_clusters(tensors: dict[str, Any], random: torch.Generator) -> dict[str, Any]:
    found = with_heads(("image", 0, 2), ("text", 0, 2), log_scale=torch.tensor([1.5], dtype=torch.float64))(
        tensors, random
    )
    for name in ("image_centroids", "text_centroids", "image_of_text", "text_of_image"):
        found[name] = torch.randn(C, PROJECTED, generator=random).double()
    found["image_of_text"][2] = 0  # a cluster that no image was in
    return {**found, "rounds": torch.tensor(1)}


SMALL = {"hidden": 5, "width": PROJECTED}
SOFT = {**SMALL, "prototypes": C, "teacher_temperature": 0.5, "temperature": 0.7}
ALONE = {"aligns": False, "mixes_rows": False}

ENTRIES = [
    Entry("captioning", captioning, more=with_captions, **ALONE),
    Entry(
        "local_global",
        local_global,
        settings=(SOFT, {**SMALL, "prototypes": C}),
        more=with_prototypes(image_views=(VIEWS,)),
        **ALONE,
    ),
    Entry(
        "masked_prediction",
        masked_prediction,
        settings=(SOFT, {**SMALL, "prototypes": C}),
        more=with_prototypes(masked_image_tokens=(P,), teacher_image_tokens=(P,)),
        **ALONE,
    ),
    Entry(
        "prototype",
        prototype,
        settings=(
            {**SMALL, "clusters": C, "episode": 50, "target_temperature": 0.5},
            {**SMALL, "clusters": C, "episode": 50},
        ),
        more=with_clusters,
        **ALONE,
    ),
]
