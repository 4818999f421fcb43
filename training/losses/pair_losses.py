"""What each pair of a batch costs by itself, as a sign of whether its text belongs to its image.

B rows of this rank, K text slots.
"""

from __future__ import annotations

import torch
from torch import Tensor

from training.gather import Exchange
from training.losses.compose import sides, without_what_is_missing
from training.losses.loss_inputs import LossInputs
from training.losses.softmax import log_sums
from training.losses.tiles import wide
from training.precision import full_precision


@torch.no_grad()
def pair_losses(inputs: LossInputs, exchange: Exchange, *, tile: tuple[int, int]) -> Tensor:
    """[B, K]: ½ (-log softmax over texts - log softmax over images) at each text and its image; 0 where there is none.

    A collective call where the mode is not local.
    """
    with full_precision(inputs.image_BD.device):
        inputs, mask_BK = without_what_is_missing(inputs), inputs.text_mask_BK
        rows, columns = sides(inputs, slice(None), mask_BK, exchange)
        found = log_sums(rows, columns, inputs.scale, exchange=exchange, tile=tile)
        at_own = wide(inputs.scale) * torch.einsum("bd,bkd->bk", wide(inputs.image_BD), wide(inputs.text_BKD))
        each = 0.5 * (found.row[:, None] + found.column.view_as(mask_BK)) - at_own
        return torch.where(mask_BK, each, 0.0)
