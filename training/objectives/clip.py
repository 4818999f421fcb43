"""The objective `clip`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pairmill.registry import NamedConfig
from training.losses.contrast import Contrast, one_slot
from training.objectives.contrastive import Contrastive

if TYPE_CHECKING:
    from torch import Tensor


class ClipConfig(NamedConfig):
    """It has no keys of its own."""


class Clip(Contrastive):
    """The first text of an image is its one positive (CLIP, Radford et al. 2021).

        L = ½ [CE(s X Tᵀ) + CE(s T Xᵀ)]

    Softmax over texts and over images, mean over rows; rows of one group are no negatives of each other.
    """

    paper = "CLIP, Radford et al. 2021"
    Config = ClipConfig

    def contrasts(self, text_mask_BK: Tensor) -> list[Contrast]:
        """See `Contrastive`."""
        return [one_slot(text_mask_BK, 0)]
