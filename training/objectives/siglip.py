"""The objective `siglip`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from pairmill.registry import NamedConfig
from training.losses.contrast import Contrast
from training.objectives.contrastive import Contrastive

if TYPE_CHECKING:
    from torch import Tensor


class SiglipConfig(NamedConfig):
    """Where its learnt bias begins."""

    bias_init: float | None = Field(
        None, description="logit bias at the start; null: the checkpoint's, else -10 (SigLIP)"
    )


class Siglip(Contrastive):
    """Each pair of an image and a text is one binary decision (SigLIP, Zhai et al. 2023), all slots together.

        L = -(1/N) Σ_i Σ_jk log σ(z (s x_i·t_jk + b)),   z = +1 where i = j, else -1;   N: rows with a text

    The bias b is open_clip's `logit_bias`, and is exported with the model.  The temperature begins at 0.1.
    """

    paper = "SigLIP, Zhai et al. 2023"
    Config = SiglipConfig
    config: SiglipConfig
    temperature_init = 0.1

    @property
    def bias_init(self) -> float | None:
        """See `Objective`."""
        return -10.0

    @property
    def bias_given(self) -> float | None:
        """See `Objective`."""
        return self.config.bias_init

    def contrasts(self, text_mask_BK: Tensor) -> list[Contrast]:
        """See `Contrastive`."""
        weight = text_mask_BK.double()
        whole = slice(0, text_mask_BK.shape[1])
        return [Contrast("sigmoid", whole, text_mask_BK, text_mask_BK.any(1).double(), weight, weight, 1.0)]
