"""Contrasts: all images against the texts of some slots, with what is positive and what weight each has.

A contrastive objective turns the mask of a batch's texts into contrasts; its loss is theirs, weighted by `share`.

B rows of this rank, K text slots, k the slots of one contrast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


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


def one_slot(text_mask_BK: Tensor, slot: int) -> Contrast:
    """The text of one slot is an image's one positive: softmax both ways, mean over the rows that have it."""
    here = slice(slot, slot + 1)
    mask = text_mask_BK[:, here]
    weight = mask.double()
    return Contrast("softmax", here, mask, weight[:, 0], weight, weight, 1.0)
