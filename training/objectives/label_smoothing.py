"""The objective `label_smoothing`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from pairmill.registry import NamedConfig
from training.losses.contrast import Contrast, Spread, one_slot
from training.objectives.contrastive import Contrastive

if TYPE_CHECKING:
    from torch import Tensor


class LabelSmoothingConfig(NamedConfig):
    """How much of a target is uniform."""

    smoothing: float = Field(0.1, ge=0, lt=1, description="share of a target spread over all candidates; 0.1: ALIGN")


class LabelSmoothing(Contrastive):
    """CLIP whose targets are smoothed: the first text of an image has most of its target, all candidates the rest.

        L = ½ [mean_i -Σ_j y_ij log softmax_j(s x_i·t_j) + the same of texts over images],
        y_ij = (1 - ε) 1[i = j] + ε/C_i

    C_i: candidates of i, itself among them; other rows of its group are none.  ε: `smoothing`.
    """

    Config = LabelSmoothingConfig
    config: LabelSmoothingConfig
    paper = "ALIGN, Jia et al. 2021"

    def contrasts(self, text_mask_BK: Tensor) -> list[Contrast]:
        """See `Contrastive`."""
        return [smoothed(one_slot(text_mask_BK, 0), self.config.smoothing)]


def smoothed(plain: Contrast, smoothing: float) -> Contrast:
    """A contrast of one slot whose targets are smoothed."""
    sharp, smooth = (1 - smoothing) * plain.positive_Bk, smoothing * plain.positive_Bk
    return plain._replace(positive_Bk=sharp, own_image_Bk=sharp, spread=Spread(smooth[:, 0], smooth, own=True))
