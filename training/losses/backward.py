"""A new model's texts made to fit an index that an old model filled.

B rows of this rank, K text slots, E width of the old model.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from torch import Tensor

from training.gather import Exchange
from training.losses.compose import compute_loss
from training.losses.contrast import one_slot
from training.losses.loss_inputs import LossInputs
from training.losses.pairs import members
from training.losses.present import batch_mean
from training.losses.tiles import wide
from training.model import Rows


def compatibility_loss(
    new_BKE: Tensor, old_BKE: Tensor, scale: Tensor, rows: Rows, exchange: Exchange, *, tile: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Mean over texts of 1 − cos(new, old), and InfoNCE of new with old texts, both ways; this rank's parts.

    The old texts get no gradient.  Texts of one row or group are no negatives of each other.  A collective call.
    """
    mask_BK = rows.text_mask_BK
    # Constants where no text is: the direction of zeros has no gradient.
    new_BKE, old_BKE = (
        F.normalize(torch.where(mask_BK[..., None], wide(values), 1.0), dim=-1)
        for values in (new_BKE, old_BKE.detach())
    )
    batch = members(new_BKE[:, 0], new_BKE, rows, exchange)
    new, valid = batch.all_texts(), mask_BK.flatten()
    old = torch.where(valid[:, None], old_BKE.flatten(0, 1), 0.0)
    apart = batch_mean(1 - (new.value * old).sum(1), valid, exchange)
    inputs = LossInputs(new.value, old[:, None], valid[:, None], scale, None, new.family)
    return apart, compute_loss(inputs, [one_slot(valid[:, None], 0)], exchange, tile=tile)
