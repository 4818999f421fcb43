"""The objective `one_to_k`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pairmill.registry import NamedConfig
from training.losses.contrast import Contrast
from training.objectives.contrastive import Contrastive

if TYPE_CHECKING:
    from torch import Tensor


class OneToKConfig(NamedConfig):
    """It has no keys of its own."""


class OneToK(Contrastive):
    """Every valid text of an image is its positive, in one softmax over the texts of all slots (CCRK, Nie et al. 2024).

        i2t_i  = -(1/n_i) Σ_k m_ik [s x_i·t_ik - LSE over all valid texts]
        t2i_ik = -[s t_ik·x_i - LSE over all images]
        L      = ½ [mean_i i2t_i + Σ_ik m_ik t2i_ik / Σ_ik m_ik]

    The released code divides text-to-image by K once more; this is the symmetric form of the paper.
    """

    paper = "CCRK, Nie et al. 2024"
    Config = OneToKConfig

    def contrasts(self, text_mask_BK: Tensor) -> list[Contrast]:
        """See `Contrastive`."""
        weight = text_mask_BK.double()
        count = weight.sum(1, keepdim=True)
        whole = slice(0, text_mask_BK.shape[1])
        has_text = (count[:, 0] > 0).double()
        return [Contrast("softmax", whole, text_mask_BK, has_text, weight / count.clamp(min=1), weight, 1.0)]
