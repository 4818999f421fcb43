"""The losses as their equations stand, in float64, with every logit at once and no ranks: the reference."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from torch import Tensor

#: The objectives on which the kernels are tested; `tests/training/objectives` has a reference of every one.
CONTRASTIVE = ("clip", "siglip", "one_to_k", "per_slot")


class Case(NamedTuple):
    """A whole batch: raw (not normalised) features G rows, K slots, D wide."""

    image_GD: Tensor
    text_GKD: Tensor
    mask_GK: Tensor
    group_G: Tensor
    log_scale: Tensor
    bias: Tensor

    def leaves(self) -> dict[str, Tensor]:
        return {
            "image": self.image_GD,
            "text": self.text_GKD,
            "log_scale": self.log_scale,
            "bias": self.bias,
        }


def make_case(rows: int, slots: int, width: int, *, seed: int = 0, holes: bool = True, groups: bool = False) -> Case:
    """Random features; with holes a third of the text slots are missing, and some rows have none at all."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    mask = torch.ones(rows, slots, dtype=torch.bool)
    if holes:
        mask = torch.rand(rows, slots, generator=random) > 0.3
        mask[1] = False
    group = torch.full((rows,), -1)
    if groups:
        group = torch.randint(-1, max(2, rows // 3), (rows,), generator=random)
    return Case(
        normal(rows, width).requires_grad_(),
        normal(rows, slots, width).requires_grad_(),
        mask,
        group,
        torch.tensor(2.0, dtype=torch.float64, requires_grad=True),
        torch.tensor(-3.0, dtype=torch.float64, requires_grad=True),
    )


def naive_loss(case: Case, target: str) -> Tensor:
    """The loss of the whole batch."""
    image, text = F.normalize(case.image_GD, dim=-1), F.normalize(case.text_GKD, dim=-1)
    return naive_normalised(image, text, case.mask_GK, case.group_G, case.log_scale.exp(), case.bias, target)


def naive_normalised(
    image: Tensor, text: Tensor, mask: Tensor, group: Tensor, scale: Tensor, bias: Tensor, target: str
) -> Tensor:
    """As `naive_loss`, of features that are normalised already."""
    slots = range(mask.shape[1])
    if target == "clip":
        return _softmax(image, text[:, :1], mask[:, :1], group, scale)
    if target == "per_slot":
        used = [k for k in slots if mask[:, k].any()]
        each = [_softmax(image, text[:, k : k + 1], mask[:, k : k + 1], group, scale) for k in used]
        return torch.stack(each).mean()
    if target == "one_to_k":
        return _softmax(image, text, mask, group, scale)
    if target != "siglip":
        raise ValueError(target)
    return _sigmoid(image, text, mask, group, scale, bias)


def _pairs(image: Tensor, text: Tensor, mask: Tensor, group: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cosines [N, C] of rows and texts that exist, own [N, C] bool, excluded [N, C] bool, and the text's row [C]."""
    rows, (of_row, slot) = mask.any(1).nonzero()[:, 0], mask.nonzero(as_tuple=True)
    cosine = image[rows] @ text[of_row, slot].T
    own = rows[:, None] == of_row[None, :]
    same = (group[rows][:, None] == group[of_row][None, :]) & (group[rows][:, None] >= 0)
    return cosine, own, same & ~own, of_row


def _softmax(image: Tensor, text: Tensor, mask: Tensor, group: Tensor, scale: Tensor) -> Tensor:
    cosine, own, excluded, _ = _pairs(image, text, mask, group)
    logits = (scale * cosine).masked_fill(excluded, -torch.inf)
    image_to_text = -torch.where(own, logits.log_softmax(1), 0).sum(1) / own.sum(1)
    text_to_image = -torch.where(own, logits.log_softmax(0), 0).sum(0)
    return (image_to_text.mean() + text_to_image.mean()) / 2


def _sigmoid(image: Tensor, text: Tensor, mask: Tensor, group: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    cosine, own, excluded, _ = _pairs(image, text, mask, group)
    sign = torch.where(own, 1.0, -1.0)
    each = -F.logsigmoid(sign * (scale * cosine + bias)).masked_fill(excluded, 0)
    return each.sum() / len(cosine)
