"""The loss of contrasts: what the kernels compute of all pairs, less the terms at the targets.

B rows of this rank, K text slots, k slots of one contrast, D embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pairmill.errors import RecipeError
from training.gather import Columns, Exchange
from training.losses.contrast import Contrast, Likeness
from training.losses.loss_inputs import LossInputs
from training.losses.present import row_numbers
from training.losses.sigmoid import sigmoid_value
from training.losses.softmax import SoftTarget, finite, log_sums, weighted
from training.losses.tiles import Queries, wide
from training.precision import full_precision


def compute_loss(
    inputs: LossInputs, contrasts: Sequence[Contrast], exchange: Exchange, *, tile: tuple[int, int]
) -> Tensor:
    """The loss of this rank's rows; its mean over ranks is the loss of the whole batch, and so are its gradients (R1).

    contrasts: equally many on all ranks.  tile: `loss.tile`.
    A collective call where the mode is not local.  A batch without a single text gives 0.
    """
    with full_precision(inputs.image_BD.device):
        return _compute(without_what_is_missing(inputs), contrasts, exchange, tile)


def without_what_is_missing(inputs: LossInputs) -> LossInputs:
    """The features of missing texts and of rows without any are zeros: they may hold anything, nan too."""
    mask = inputs.text_mask_BK
    return inputs._replace(
        image_BD=torch.where(mask.any(1)[:, None], inputs.image_BD, 0.0),
        text_BKD=torch.where(mask[..., None], inputs.text_BKD, 0.0),
    )


def _compute(inputs: LossInputs, contrasts: Sequence[Contrast], exchange: Exchange, tile: tuple[int, int]) -> Tensor:
    # One message for all sums that the means over the global batch are divided by.
    sums = exchange.total(
        torch.stack([torch.stack([c.image_weight_B.sum(), c.text_weight_Bk.sum()]) for c in contrasts]).double()
    )
    used = (sums[:, 0] > 0) & (sums[:, 1] > 0)
    shares = torch.tensor([c.share for c in contrasts], dtype=torch.float64, device=sums.device) * used
    shares = shares / shares.sum().clamp(min=1e-12)
    # Empty contrasts are computed too: whether one is empty must not decide whether a rank takes part in a message.
    losses = [
        _contrast_loss(inputs, contrast, share, total.clamp(min=1.0), exchange, tile)
        for contrast, share, total in zip(contrasts, shares, sums, strict=True)
    ]
    return torch.stack(losses).sum()


def _contrast_loss(
    inputs: LossInputs,
    contrast: Contrast,
    share: Tensor,
    sums: Tensor,
    exchange: Exchange,
    tile: tuple[int, int],
) -> Tensor:
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
        entropy: Tensor | float = 0.0
        own_Bk = text_weight_Bk if contrast.own_image_Bk is None else text_weight_Bk * contrast.own_image_Bk.to(dtype)
        weight_Bk = row_weight_B[:, None] * positive_Bk + own_Bk
        soft = None
        if contrast.soft is not None:
            ready = _ready(contrast, contrast.soft, rows, columns, row_weight_B, text_weight_Bk, exchange, tile)
            soft, columns, entropy, more_Bk = ready
            weight_Bk = weight_Bk + more_Bk
        found = log_sums(rows, columns, scale, exchange=exchange, tile=tile, soft=soft)
        value = weighted(row_weight_B, found.row) + weighted(text_weight_Bk.flatten(), found.column) - found.at_soft
        return exchange.world * (value - entropy - (weight_Bk * at_own_Bk).sum())
    if inputs.bias is None:
        raise RecipeError(
            "an objective with sigmoid contrasts must have a bias_init, for the logit bias of its model",
            value="bias_init: None",
            fix="give the objective one (SigLIP: -10)",
        )
    rows = rows._replace(weight=row_weight_B)
    value = sigmoid_value(rows, columns, scale, inputs.bias, exchange=exchange, tile=tile)
    at_own_Bk = at_own_Bk + wide(inputs.bias)
    return value - exchange.world * (row_weight_B[:, None] * positive_Bk * at_own_Bk).sum()


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


@torch.no_grad()
def _ready(
    contrast: Contrast,
    like: Likeness,
    rows: Queries,
    columns: Columns,
    row_weight_B: Tensor,
    text_weight_Bk: Tensor,
    exchange: Exchange,
    tile: tuple[int, int],
) -> tuple[SoftTarget, Columns, Tensor, Tensor]:
    """The soft target; the columns with what it needs of them; the entropies [] and the weight [B, k] at own texts."""
    dtype = row_weight_B.dtype
    query_B, key = (t.to(dtype) if t.is_floating_point() else t for t in (like.query_B, like.key_Bk.flatten(0, 1)))
    row_lse, text_lse, _ = log_sums(
        rows._replace(query=query_B),
        replace(columns, key=key),
        row_weight_B.new_ones(()),
        exchange=exchange,
        tile=tile,
        measure=like.measure,
        own=like.own,
    )
    row_share_B = row_weight_B * like.image_share_B.to(dtype)
    text_share = text_weight_Bk.flatten() * (
        0.0 if like.text_share_Bk is None else like.text_share_Bk.to(dtype).flatten()
    )
    row_soft_B = row_share_B.masked_fill(row_lse == -torch.inf, 0.0)
    text_soft = text_share.masked_fill(text_lse == -torch.inf, 0.0)
    mask_Bk = contrast.mask_Bk.to(dtype)
    at_own_Bk = (row_share_B - row_soft_B)[:, None] * mask_Bk / mask_Bk.sum(1, keepdim=True).clamp(min=1)
    at_own_Bk = at_own_Bk + (text_share - text_soft).view_as(at_own_Bk)
    entropy = weighted(row_soft_B, row_lse) + weighted(text_soft, text_lse) if like.relative else row_lse.new_zeros(())
    target = SoftTarget(query_B, like.measure, like.own, finite(row_lse, row_soft_B), row_soft_B, like.relative)
    of_texts = () if like.text_share_Bk is None else (finite(text_lse, text_soft), text_soft)
    columns = replace(columns, extra=(key, *of_texts))
    return target, columns, entropy, at_own_Bk
