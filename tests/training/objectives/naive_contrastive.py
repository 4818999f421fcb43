"""The four objectives that every logit of the batch decides, as their equations stand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from entries import Entry, Tensors
from torch import Tensor


def texts_of(tensors: Tensors, slots: slice = slice(None)) -> tuple[Tensor, Tensor, Tensor]:
    """The texts that exist [C, D], the row of each [C], and the rows that have one [N]."""
    mask = tensors["text_mask"][:, slots]
    of_row, slot = mask.nonzero(as_tuple=True)
    return tensors["text"][:, slots][of_row, slot], of_row, mask.any(1).nonzero()[:, 0]


def logits_of(tensors: Tensors, slots: slice = slice(None)) -> tuple[Tensor, Tensor, Tensor]:
    """scale·x_i·t_c [N, C], -inf for another row of the group; own [N, C] bool; excluded [N, C] bool."""
    text, of_row, rows = texts_of(tensors, slots)
    group = tensors["group_id"]
    own = rows[:, None] == of_row[None, :]
    excluded = (group[rows][:, None] == group[of_row][None, :]) & (group[rows][:, None] >= 0) & ~own
    logits = tensors["logit_scale"] * tensors["image"][rows] @ text.T
    return logits.masked_fill(excluded, -torch.inf), own, excluded


def softmax_both_ways(logits: Tensor, own: Tensor, weight: float = 1.0) -> Tensor:
    """½ [mean over rows of the mean over own texts + weight · mean over texts], of -log softmax at own pairs."""
    image_to_text = -torch.where(own, logits.log_softmax(1), 0).sum(1) / own.sum(1)
    text_to_image = -torch.where(own, logits.log_softmax(0), 0).sum(0)
    return (image_to_text.mean() + weight * text_to_image.mean()) / 2


def clip(tensors: Tensors, settings: Mapping[str, Any], form: str) -> Tensor:
    logits, own, _ = logits_of(tensors, slice(0, 1))
    return softmax_both_ways(logits, own)


def per_slot(tensors: Tensors, settings: Mapping[str, Any], form: str) -> Tensor:
    used = [k for k in range(tensors["text_mask"].shape[1]) if tensors["text_mask"][:, k].any()]
    each = [softmax_both_ways(*logits_of(tensors, slice(k, k + 1))[:2]) for k in used]
    return torch.stack(each).mean()


def one_to_k(tensors: Tensors, settings: Mapping[str, Any], form: str) -> Tensor:
    logits, own, _ = logits_of(tensors)
    weight = settings.get("text_to_image_weight", 1.0)
    return softmax_both_ways(logits, own, weight / (tensors["text"].shape[1] if form == "released" else 1))


def siglip(tensors: Tensors, settings: Mapping[str, Any], form: str) -> Tensor:
    logits, own, excluded = logits_of(tensors)
    decision = torch.where(own, 1.0, -1.0) * (logits.masked_fill(excluded, 0) + tensors["logit_bias"])
    return -F.logsigmoid(decision).masked_fill(excluded, 0).sum() / len(logits)


ENTRIES = [
    Entry("clip", clip, clip_where={}, at_chance=lambda rows, slots: math.log(rows), slots_alike=False),
    Entry(
        "one_to_k",
        one_to_k,
        settings=({}, {"text_to_image_weight": 0.3}),
        forms=("paper", "released"),
        clip_where={},
        at_chance=lambda rows, slots: (math.log(rows * slots) + math.log(rows)) / 2,
    ),
    Entry("per_slot", per_slot, clip_where={}, at_chance=lambda rows, slots: math.log(rows)),
    Entry("siglip", siglip, at_chance=lambda rows, slots: rows * slots * math.log(2)),
]
