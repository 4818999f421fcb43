"""The objective `one_to_k`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from pairmill.registry import NamedConfig
from training.losses.contrast import Contrast, all_slots
from training.objectives.contrastive import Contrastive

if TYPE_CHECKING:
    from torch import Tensor


class OneToKConfig(NamedConfig):
    """How its two directions are weighted."""

    text_to_image_weight: float = Field(
        1.0, ge=0, description="weight of text-to-image, to 1 of image-to-text; 1: the paper's, symmetric"
    )


class OneToK(Contrastive):
    """Every valid text of an image is its positive, in one softmax over the texts of all slots.

        i2t_i  = -(1/n_i) Σ_k m_ik [s x_i·t_ik - LSE over all valid texts]
        t2i_ik = -[s t_ik·x_i - LSE over all images]
        L      = ½ [mean_i i2t_i + w Σ_ik m_ik t2i_ik / Σ_ik m_ik]

    w: `text_to_image_weight`.  The released code divides text-to-image by K, the number of slots, once more.
    """

    paper = "CCRK, Nie et al. 2024"
    Config = OneToKConfig
    config: OneToKConfig
    forms = ("paper", "released")

    def contrasts(self, text_mask_BK: Tensor) -> list[Contrast]:
        """See `Contrastive`."""
        weight = self.config.text_to_image_weight
        if self.form == "released":
            weight /= text_mask_BK.shape[1]
        return [all_slots(text_mask_BK)._replace(text_to_image=weight)]
