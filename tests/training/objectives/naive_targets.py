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
    parts = [settings.get("hard", 1.0) * softmax_both_ways(logits, own)]
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
    Entry(
        "distill",
        distill,
        settings=({}, {"hard": 0.3, "soft": 0.7, "temperature": 2.0}, {"hard": 0.0}),
        forms=("paper", "released"),
        more=with_teacher,
    ),
    Entry(
        "cwcl",
        cwcl,
        settings=({}, {"threshold": 0.6, "power": 2.0}),
        more=with_teacher,
        at_chance=lambda rows, slots: math.log(rows * slots) + math.log(rows),
    ),
    Entry(
        "jaccard",
        jaccard,
        more=with_tags,
        at_chance=lambda rows, slots: math.log(rows * slots) + math.log(rows),
    ),
]
