"""Put a loss together from the recipe's parts, and compute it.

B rows of this rank, K text slots, k slots of one contrast, D embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from training.gather import Columns, Exchange
from training.losses.config import LossConfig
from training.losses.inputs import LossInputs, LossOutput
from training.losses.sigmoid import sigmoid_value
from training.losses.softmax import softmax_value
from training.losses.targets import TARGETS, Contrast
from training.losses.tiles import Rows, wide
from training.precision import full_precision


def compute_loss(inputs: LossInputs, config: LossConfig, exchange: Exchange) -> LossOutput:
    """The loss of this rank's rows; its mean over ranks is the loss of the whole batch, and so are its gradients.

    A collective call where the mode is not local.  A batch without a single text gives 0.
    """
    with full_precision(inputs.image_BD.device):
        return _compute(_without_what_is_missing(inputs), config, exchange)


def _without_what_is_missing(inputs: LossInputs) -> LossInputs:
    """The features of missing texts and of rows without any are zeros: they may hold anything, nan too."""
    mask = inputs.text_mask_BK
    return inputs._replace(
        image_BD=torch.where(mask.any(1)[:, None], inputs.image_BD, 0.0),
        text_BKD=torch.where(mask[..., None], inputs.text_BKD, 0.0),
    )


def _compute(inputs: LossInputs, config: LossConfig, exchange: Exchange) -> LossOutput:
    contrasts = TARGETS.get(config.target)(inputs.text_mask_BK)
    # One message for all sums that the means over the global batch are divided by.
    sums = exchange.total(
        torch.stack([torch.stack([c.image_weight_B.sum(), c.text_weight_Bk.sum()]) for c in contrasts]).double()
    )
    used = (sums[:, 0] > 0) & (sums[:, 1] > 0)
    shares = torch.tensor([c.share for c in contrasts], dtype=torch.float64, device=sums.device) * used
    shares = shares / shares.sum().clamp(min=1e-12)
    # Empty contrasts are computed too: whether one is empty must not decide whether a rank takes part in a message.
    losses = [
        _contrast_loss(inputs, contrast, share, total.clamp(min=1.0), config, exchange)
        for contrast, share, total in zip(contrasts, shares, sums, strict=True)
    ]
    total = torch.stack(losses).sum()
    return LossOutput(total, {config.target: total.detach()})


def _contrast_loss(
    inputs: LossInputs, contrast: Contrast, share: Tensor, sums: Tensor, config: LossConfig, exchange: Exchange
) -> Tensor:
    text_BkD = inputs.text_BKD[:, contrast.slots]
    image_BD, kept = wide(inputs.image_BD), contrast.mask_Bk
    dtype = image_BD.dtype
    row_weight = contrast.image_weight_B.to(dtype) * (share / sums[0])
    text_weight = contrast.text_weight_Bk.to(dtype) * (share / sums[1])
    number = torch.arange(len(image_BD), device=image_BD.device) + exchange.rank * len(image_BD)
    slots = kept.shape[1]
    half = 0.5 if contrast.kind == "softmax" else 1.0
    rows = Rows(inputs.image_BD, kept.any(1), half * row_weight, number, inputs.group_B)
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
        value = softmax_value(rows, columns, inputs.scale, exchange=exchange, tile=config.tile)
    else:
        assert inputs.bias is not None, "a sigmoid loss needs a bias"
        at_own_Bk = at_own_Bk + wide(inputs.bias)
        weight_Bk = row_weight[:, None] * positive_Bk
        value = sigmoid_value(rows, columns, inputs.scale, inputs.bias, exchange=exchange, tile=config.tile)
    return value - exchange.world * (weight_Bk * at_own_Bk).sum()
