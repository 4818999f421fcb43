"""The circle loss of images over the texts: tiles for the negatives, plain autograd for the few positives.

B rows of this rank, K text slots, D embedding.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from torch import Tensor

from training.gather import Exchange
from training.losses.compose import sides, without_what_is_missing
from training.losses.loss_inputs import LossInputs
from training.losses.present import batch_mean
from training.losses.softmax import Bend, log_sums
from training.losses.tiles import wide
from training.precision import full_precision


def circle_loss(
    inputs: LossInputs, exchange: Exchange, *, tile: tuple[int, int], gamma: float, margin: float
) -> Tensor:
    """Mean over images, of this rank's rows; the mean over ranks is the whole batch's, and so are gradients (R1).

    A collective call where the mode is not local.
    """
    with full_precision(inputs.image_BD.device):
        inputs, mask_BK = without_what_is_missing(inputs), inputs.text_mask_BK
        rows, columns = sides(inputs, slice(None), mask_BK, exchange)
        root = math.sqrt(gamma)
        scale, bend = wide(inputs.image_BD).new_tensor(root), _bend(root * margin)
        found = log_sums(rows, columns, scale, exchange=exchange, tile=tile, own=False, by_column=False, bend=bend)
        negative_B = found.row
        cosine_BK = torch.einsum("bd,bkd->bk", wide(inputs.image_BD), wide(inputs.text_BKD))
        pace_BK = (1 + margin - cosine_BK.detach()).clamp(min=0)
        positive_BK = -gamma * pace_BK * (cosine_BK - (1 - margin))
        # A row without texts keeps its zeros, and a finite sum that counts for nothing.
        positive_BK = positive_BK.masked_fill(~mask_BK & rows.valid[:, None], -torch.inf)
        each_B = F.softplus(positive_BK.logsumexp(1) + negative_B)
        return batch_mean(each_B, rows.valid, exchange)


def _bend(margin: float) -> Bend:
    """[x + m]+ (x - m) of cosines x and a margin m, both times √γ; [x + m]+ is a weight, not differentiated."""

    def value(cosine: Tensor) -> Tensor:
        # x² - m² from -m on, 0 below.
        cosine.clamp_(min=-margin)
        return cosine.mul_(cosine).sub_(margin**2)

    def slope(cosine: Tensor, out: Tensor) -> Tensor:
        return torch.add(cosine, margin, out=out).clamp_(min=0)

    return Bend(value, slope, lambda cosine: max(cosine, margin) ** 2)
