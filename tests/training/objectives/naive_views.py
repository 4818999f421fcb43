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


def with_views(tensors: dict[str, Any], random: torch.Generator) -> dict[str, Any]:
    rows, width = tensors["image"].shape
    return {name: units(rows, 2, width, random=random) for name in ("image_views", "text_views")}


ENTRIES = [
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
