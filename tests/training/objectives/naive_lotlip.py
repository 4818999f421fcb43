"""LoTLIP's objective as its equation stands: each feature of a text by itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from entries import Entry, Tensors
from torch import Tensor

CORNERS = 2


def pair(tensors: Tensors, feature: Tensor, there: Tensor) -> Tensor:
    """CE(s X fᵀ) + CE(s f Xᵀ) of the rows that have the text, [B, D]; rows of one group leave each other out."""
    rows = there.nonzero()[:, 0].tolist()
    group = tensors["group_id"].tolist()
    both = []
    for of, others in ((tensors["image"], feature), (feature, tensors["image"])):
        for i in rows:
            seen = [j for j in rows if j == i or group[j] < 0 or group[j] != group[i]]
            logits = torch.stack([tensors["logit_scale"] * (of[i] * others[j]).sum() for j in seen])
            both.append(torch.logsumexp(logits, 0) - logits[seen.index(i)])
    return torch.stack(both).sum() / len(rows)


def lotlip(tensors: Tensors, settings: Mapping[str, Any], form: str) -> Tensor:
    text, extra, mask = tensors["text"], tensors["text_extra"], tensors["text_mask"]
    terms, count = [], 0
    for k in range(text.shape[1]):
        if not mask[:, k].any():
            continue
        features = [text[:, k]] if k == 0 else [text[:, k], *extra[:, k].unbind(1)]
        weight = settings.get("short_weight", 1.0) if k == 0 else settings.get("long_weight", 1.0)
        terms += [weight * pair(tensors, feature, mask[:, k]) for feature in features]
        count += len(features)
    return torch.stack(terms).sum() / (2 * count)


def with_corners(tensors: dict[str, Any], random: torch.Generator) -> dict[str, Any]:
    rows, slots, width = tensors["text"].shape
    extra = torch.randn(rows, slots, CORNERS, width, generator=random, dtype=torch.float64)
    return {"text_extra": F.normalize(extra, dim=-1).requires_grad_()}


ENTRIES = [
    Entry(
        "lotlip",
        lotlip,
        settings=({}, {"short_weight": 0.5, "long_weight": 2.0}, {"long_weight": 0.0}),
        more=with_corners,
        clip_where={},
        at_chance=lambda rows, slots: math.log(rows),
        slots_alike=False,
    ),
]
