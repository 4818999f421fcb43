"""Targets: which texts an image is to be near to, and with what weight.

A target is a pure function of the masks: it returns the contrasts whose losses, weighted by `share`, make the loss.

B rows of this rank, K text slots, k the slots of one contrast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from pairmill.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor  # only a name here: a recipe asks for the names of targets without loading torch


class Contrast(NamedTuple):
    """All images against the texts of some slots.

    Where weights are summed over the batch, it is the batch of all ranks.
    """

    kind: Literal["softmax", "sigmoid"]
    slots: slice  #: of K
    mask_Bk: Tensor  #: bool, the texts that take part
    image_weight_B: Tensor  #: softmax: weight of a row's image-to-text loss, divided by the sum of all
    positive_Bk: Tensor  #: softmax: what of a row's target is at each of its own texts; a row with weight sums to 1
    text_weight_Bk: Tensor  #: softmax: weight of a text's text-to-image loss, divided by the sum of all
    share: float  #: weight among the contrasts that hold any row at all


Target: TypeAlias = "Callable[[Tensor], list[Contrast]]"

#: text_mask_BK -> contrasts.
TARGETS: Registry[Target] = Registry("loss.target")


@TARGETS.register("clip")
def clip(text_mask_BK: Tensor) -> list[Contrast]:
    """The first text of an image is its one positive (CLIP, Radford et al. 2021): softmax both ways, mean over rows."""
    return [_one_slot(text_mask_BK, 0)]


@TARGETS.register("per_slot")
def per_slot(text_mask_BK: Tensor) -> list[Contrast]:
    """Each slot its own softmax, with the negatives of that slot only (DreamLIP, Zheng et al. 2024, L_mp).

        L = Σ_k 1/(2T) [CE(s X T_kᵀ) + CE(s T_k Xᵀ)]

    T: slots with a text in any row.  A row without a text in slot k takes no part in that slot.
    """
    return [_one_slot(text_mask_BK, slot) for slot in range(text_mask_BK.shape[1])]


@TARGETS.register("one_to_k")
def one_to_k(text_mask_BK: Tensor) -> list[Contrast]:
    """Every valid text of an image is its positive, in one softmax over the texts of all slots (CCRK, Nie et al. 2024).

        i2t_i  = -(1/n_i) Σ_k m_ik [s x_i·t_ik - LSE over all valid texts]
        t2i_ik = -[s t_ik·x_i - LSE over all images]
        L      = ½ [mean_i i2t_i + Σ_ik m_ik t2i_ik / Σ_ik m_ik]

    The released code divides text-to-image by K once more; this is the symmetric form of the paper.
    """
    weight = text_mask_BK.double()
    count = weight.sum(1, keepdim=True)
    whole = slice(0, text_mask_BK.shape[1])
    has_text = (count[:, 0] > 0).double()
    return [Contrast("softmax", whole, text_mask_BK, has_text, weight / count.clamp(min=1), weight, 1.0)]


@TARGETS.register("siglip")
def siglip(text_mask_BK: Tensor) -> list[Contrast]:
    """Each pair of an image and a text is one binary decision (SigLIP, Zhai et al. 2023), all slots together.

    L = -(1/N) Σ_i Σ_jk log σ(z (s x_i·t_jk + b)),   z = +1 where i = j, else -1;   N: rows with a text
    """
    weight = text_mask_BK.double()
    whole = slice(0, text_mask_BK.shape[1])
    return [Contrast("sigmoid", whole, text_mask_BK, text_mask_BK.any(1).double(), weight, weight, 1.0)]


def _one_slot(text_mask_BK: Tensor, slot: int) -> Contrast:
    here = slice(slot, slot + 1)
    mask = text_mask_BK[:, here]
    weight = mask.double()
    return Contrast("softmax", here, mask, weight[:, 0], weight, weight, 1.0)
