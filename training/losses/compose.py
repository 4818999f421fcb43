"""The loss of contrasts: what the kernels compute of all pairs, less the terms at the targets.

B rows of this rank, K text slots, k slots of one contrast, D embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pairmill.errors import RecipeError
from training.gather import Columns, Exchange
from training.losses.contrast import Contrast
from training.losses.loss_inputs import LossInputs
from training.losses.sigmoid import sigmoid_value
from training.losses.softmax import softmax_value
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
        return _compute(_without_what_is_missing(inputs), contrasts, exchange, tile)


def _without_what_is_missing(inputs: LossInputs) -> LossInputs:
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
    text_BkD = inputs.text_BKD[:, contrast.slots]
    image_BD, kept = wide(inputs.image_BD), contrast.mask_Bk
    dtype = image_BD.dtype
    row_weight = contrast.image_weight_B.to(dtype) * (share / sums[0])
    text_weight = contrast.text_weight_Bk.to(dtype) * (share / sums[1])
    number = torch.arange(len(image_BD), device=image_BD.device) + exchange.rank * len(image_BD)
    slots = kept.shape[1]
    half = 0.5 if contrast.kind == "softmax" else 1.0
    rows = Queries(inputs.image_BD, kept.any(1), half * row_weight, number, inputs.group_B)
    columns = Columns(
        text_BkD.flatten(0, 1),
        kept.flatten(),
        half * text_weight.flatten(),
        number.repeat_interleave(slots),
        inputs.group_B.repeat_interleave(slots),
    )
    positive_Bk = contrast.positive_Bk.to(dtype)
    scale = wide(inputs.scale)
    # What is at the targets: own texts only, so a [B, k] product.
    at_own_Bk = scale * torch.einsum("bd,bkd->bk", image_BD, wide(text_BkD))
    if contrast.kind == "softmax":
        weight_Bk = half * (row_weight[:, None] * positive_Bk + text_weight)
        value = softmax_value(rows, columns, inputs.scale, exchange=exchange, tile=tile)
    else:
        if inputs.bias is None:
            raise RecipeError(
                "an objective with sigmoid contrasts must have a bias_init, for the logit bias of its model",
                value="bias_init: None",
                fix="give the objective one (SigLIP: -10)",
            )
        at_own_Bk = at_own_Bk + wide(inputs.bias)
        weight_Bk = row_weight[:, None] * positive_Bk
        value = sigmoid_value(rows, columns, inputs.scale, inputs.bias, exchange=exchange, tile=tile)
    return value - exchange.world * (weight_Bk * at_own_Bk).sum()
