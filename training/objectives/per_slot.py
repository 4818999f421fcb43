"""The objective `per_slot`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pairmill.registry import NamedConfig
from training.losses.contrast import Contrast, one_slot
from training.objectives.contrastive import Contrastive

if TYPE_CHECKING:
    from torch import Tensor


class PerSlotConfig(NamedConfig):
    """It has no keys of its own."""


class PerSlot(Contrastive):
    """Each slot has its own softmax, with the negatives of that slot only (DreamLIP, Zheng et al. 2024, L_mp).

        L = Σ_k 1/(2T) [CE(s X T_kᵀ) + CE(s T_k Xᵀ)]

    T: slots with a text in any row.  A row without a text in slot k takes no part in that slot.
    """

    paper = "DreamLIP, Zheng et al. 2024"
    Config = PerSlotConfig

    def contrasts(self, text_mask_BK: Tensor) -> list[Contrast]:
        """See `Contrastive`."""
        return [one_slot(text_mask_BK, slot) for slot in range(text_mask_BK.shape[1])]
