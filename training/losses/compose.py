"""The loss of contrasts: what the kernels compute of all pairs, less the terms at the targets.

B rows of this rank, K text slots, k slots of one contrast, D embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from pairmill.errors import RecipeError
from training.gather import Columns, Exchange
from training.losses.contrast import Contrast, Likeness, Spread
from training.losses.loss_inputs import LossInputs
from training.losses.present import row_numbers
from training.losses.sigmoid import sigmoid_value
from training.losses.softmax import LogSums, SoftTarget, log_sums, weighted
from training.losses.spread import candidates
from training.losses.tiles import Queries, wide
from training.precision import full_precision


class Computed(NamedTuple):
    """The loss of contrasts, and what each pair costs by itself."""

    total: Tensor
    #: Of each contrast, without gradient: ½ (-log softmax over texts - log softmax over images) at each text and its
    #: image [B, k]; 0 where there is no text.  Nothing [0] of a sigmoid contrast.
    pairs: list[Tensor]


def compute_loss(
    inputs: LossInputs, contrasts: Sequence[Contrast], exchange: Exchange, *, tile: tuple[int, int]
) -> Tensor:
    """The loss of this rank's rows; its mean over ranks is the loss of the whole batch, and so are its gradients (R1).

    contrasts: equally many on all ranks.  tile: `loss.tile`.
    A collective call where the mode is not local.  A batch without a single text gives 0.
    """
    return compute_with_pairs(inputs, contrasts, exchange, tile=tile).total


def compute_with_pairs(
    inputs: LossInputs, contrasts: Sequence[Contrast], exchange: Exchange, *, tile: tuple[int, int]
) -> Computed:
    """As `compute_loss`, with what else the kernels know."""
    with full_precision(inputs.image_BD.device):
        return _compute(without_what_is_missing(inputs), contrasts, exchange, tile)


def without_what_is_missing(inputs: LossInputs) -> LossInputs:
    """The features of missing texts and of rows without any are zeros: they may hold anything, nan too."""
    mask = inputs.text_mask_BK
    if mask.device.type == "cpu" and bool(mask.all()):
        # A copy of all features spared.  On a GPU the question would cost more: it waits for the device.
        return inputs
    return inputs._replace(
        image_BD=torch.where(mask.any(1)[:, None], inputs.image_BD, 0.0),
        text_BKD=torch.where(mask[..., None], inputs.text_BKD, 0.0),
    )


def _compute(inputs: LossInputs, contrasts: Sequence[Contrast], exchange: Exchange, tile: tuple[int, int]) -> Computed:
    # One message for all sums that the means over the global batch are divided by.
    sums = exchange.total(
        torch.stack([torch.stack([c.image_weight_B.sum(), c.text_weight_Bk.sum()]) for c in contrasts]).double()
    )
    used = (sums[:, 0] > 0) & (sums[:, 1] > 0)
    shares = torch.tensor([c.share for c in contrasts], dtype=torch.float64, device=sums.device) * used
    shares = shares / shares.sum().clamp(min=1e-12)
    # Empty contrasts are computed too: whether one is empty must not decide whether a rank takes part in a message.
    found = [
        _contrast_loss(inputs, contrast, share, total.clamp(min=1.0), exchange, tile)
        for contrast, share, total in zip(contrasts, shares, sums, strict=True)
    ]
    return Computed(torch.stack([value for value, _ in found]).sum(), [pairs for _, pairs in found])


def _contrast_loss(
    inputs: LossInputs,
    contrast: Contrast,
    share: Tensor,
    sums: Tensor,
    exchange: Exchange,
    tile: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    image_BD, text_BkD = wide(inputs.image_BD), wide(inputs.text_BKD[:, contrast.slots])
    dtype = image_BD.dtype
    row_weight_B = contrast.image_weight_B.to(dtype) * (share / sums[0]).to(dtype)
    text_weight_Bk = contrast.text_weight_Bk.to(dtype) * (share / sums[1]).to(dtype)
    positive_Bk = contrast.positive_Bk.to(dtype)
    rows, columns = sides(inputs, contrast.slots, contrast.mask_Bk, exchange)
    scale = wide(inputs.scale) * contrast.sharpness if contrast.sharpness != 1 else wide(inputs.scale)
    # What is at the targets: own texts only, so a [B, k] product.
    at_own_Bk = scale * torch.einsum("bd,bkd->bk", image_BD, text_BkD)
    if contrast.kind == "softmax":
        row_weight_B, text_weight_Bk = 0.5 * row_weight_B, 0.5 * contrast.text_to_image * text_weight_Bk
        own_Bk = text_weight_Bk if contrast.own_image_Bk is None else text_weight_Bk * contrast.own_image_Bk.to(dtype)
        weight_Bk = row_weight_B[:, None] * positive_Bk + own_Bk
        soft = None
        if contrast.soft is not None:
            soft, columns = _soft_target(contrast.soft, columns, dtype)
        found = log_sums(rows, columns, scale, exchange=exchange, tile=tile, soft=soft)
        pairs_Bk = 0.5 * (found.row[:, None] + found.column.view_as(at_own_Bk)).detach() - at_own_Bk.detach()
        pairs_Bk = torch.where(contrast.mask_Bk, pairs_Bk, 0.0)
        value = weighted(row_weight_B, found.row) + weighted(text_weight_Bk.flatten(), found.column)
        parts = []
        if contrast.soft is not None:
            parts.append(_at_soft(contrast, contrast.soft, found, row_weight_B, text_weight_Bk))
        if contrast.spread is not None:
            mine = inputs._replace(image_BD=image_BD, text_BKD=text_BkD, scale=scale)
            parts.append(_at_spread(mine, contrast, contrast.spread, row_weight_B, text_weight_Bk, exchange))
        for at_others, more_Bk in parts:
            value, weight_Bk = value - at_others, weight_Bk + more_Bk
        return exchange.world * (value - (weight_Bk * at_own_Bk).sum()), pairs_Bk
    if inputs.bias is None:
        raise RecipeError(
            "an objective with sigmoid contrasts must have a bias_init, for the logit bias of its model",
            value="bias_init: None",
            fix="give the objective one (SigLIP: -10)",
        )
    rows = rows._replace(weight=row_weight_B)
    value = sigmoid_value(rows, columns, scale, inputs.bias, exchange=exchange, tile=tile)
    at_own_Bk = at_own_Bk + wide(inputs.bias)
    return value - exchange.world * (row_weight_B[:, None] * positive_Bk * at_own_Bk).sum(), at_own_Bk.new_zeros(0)


def sides(inputs: LossInputs, slots: slice, mask_Bk: Tensor, exchange: Exchange) -> tuple[Queries, Columns]:
    """Images and the texts of some slots as what the kernels take, without weights; row by row, slot by slot."""
    rows, k = mask_Bk.shape
    number = row_numbers(rows, exchange, mask_Bk.device)
    none = wide(inputs.image_BD).new_zeros(rows)
    return (
        Queries(inputs.image_BD, mask_Bk.any(1), none, number, inputs.group_B),
        Columns(
            inputs.text_BKD[:, slots].flatten(0, 1),
            mask_Bk.flatten(),
            none.repeat_interleave(k),
            number.repeat_interleave(k),
            inputs.group_B.repeat_interleave(k),
        ),
    )


def _soft_target(like: Likeness, columns: Columns, dtype: torch.dtype) -> tuple[SoftTarget, Columns]:
    """The target as the kernel takes it, and the columns with its keys."""
    query_B, key = (t.to(dtype) if t.is_floating_point() else t for t in (like.query_B, like.key_Bk.flatten(0, 1)))
    both = like.text_share_Bk is not None
    return SoftTarget(query_B, like.measure, both, like.logs, like.relative), replace(columns, extra=(key,))


def _at_soft(
    contrast: Contrast, like: Likeness, found: LogSums, row_weight_B: Tensor, text_weight_Bk: Tensor
) -> tuple[Tensor, Tensor]:
    """Σ T l, or Σ T (l - log T), of a soft target T; the weight [B, k] that goes to own texts, where t are all 0."""
    row_share_B = row_weight_B * like.image_share_B.to(row_weight_B)
    row_soft_B = row_share_B.masked_fill(found.row_target == -torch.inf, 0.0)
    value = weighted(row_soft_B, found.row_mean)
    if like.relative:
        value = value + weighted(row_soft_B, found.row_target)
    more_Bk = _at_own(row_share_B - row_soft_B, contrast.mask_Bk)
    if like.text_share_Bk is None:
        return value, more_Bk
    share_Bk = text_weight_Bk * like.text_share_Bk.to(text_weight_Bk)
    soft_Bk = share_Bk.masked_fill(found.column_target.view_as(share_Bk) == -torch.inf, 0.0)
    value = value + weighted(soft_Bk.flatten(), found.column_mean)
    if like.relative:
        value = value + weighted(soft_Bk.flatten(), found.column_target)
    return value, more_Bk + share_Bk - soft_Bk


def _at_spread(
    inputs: LossInputs,
    contrast: Contrast,
    spread: Spread,
    row_weight_B: Tensor,
    text_weight_Bk: Tensor,
    exchange: Exchange,
) -> tuple[Tensor, Tensor]:
    """As `_at_soft`, of a target that is alike at all candidates."""
    image_BD, text_BkD, _, scale, _, group_B = inputs
    others = candidates(image_BD, text_BkD, contrast.mask_Bk, group_B, own=spread.own, exchange=exchange)
    row_share_B = row_weight_B * spread.image_share_B.to(row_weight_B)
    text_share_Bk = text_weight_Bk * spread.text_share_Bk.to(text_weight_Bk)
    row_spread_B = row_share_B.masked_fill(others.texts_B == 0, 0.0)
    text_spread_Bk = text_share_Bk.masked_fill(others.images_B[:, None] == 0, 0.0)
    at_texts_B = torch.einsum("bd,bd->b", image_BD, others.text_BD)
    at_images_Bk = torch.einsum("bd,bkd->bk", others.image_BD, text_BkD)
    value = scale * ((row_spread_B * at_texts_B).sum() + (text_spread_Bk * at_images_Bk).sum())
    more_Bk = _at_own(row_share_B - row_spread_B, contrast.mask_Bk)
    return value, more_Bk + text_share_Bk - text_spread_Bk


def _at_own(weight_B: Tensor, mask_Bk: Tensor) -> Tensor:
    """A weight of each row, alike on its texts [B, k]."""
    mask = mask_Bk.to(weight_B)
    return weight_B[:, None] * mask / mask.sum(1, keepdim=True).clamp(min=1)
