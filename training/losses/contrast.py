"""Contrasts: all images against the texts of some slots, with what is positive and what weight each has.

A contrastive objective turns a batch into contrasts; its loss is theirs, weighted by `share`.

B rows of this rank, K text slots, k the slots of one contrast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Likeness(NamedTuple):
    """A soft target t: in proportion to t over texts, and over images, are what a contrast learns too.

    log t, or t itself, is `measure(query [r, …], key [c, …])`, [r, c], and does not learn.  A row or text whose t are
    all 0 has its own texts, or its image, as target.
    """

    query_B: Tensor  #: [B, …] of images
    key_Bk: Tensor  #: [B, k, …] of texts
    measure: Callable[[Tensor, Tensor], Tensor]
    image_share_B: Tensor  #: what of a row's target is in proportion to t over texts
    text_share_Bk: Tensor | None  #: what of a text's target is so over images; None: nothing
    logs: bool = True  #: the measure is of log t, and the target the softmax of it
    relative: bool = False  #: the loss is a divergence: less the entropies of these targets


class Spread(NamedTuple):
    """What of the targets lies on all candidates alike; where there is none, on a row's own texts, or on the image."""

    image_share_B: Tensor
    text_share_Bk: Tensor
    own: bool  #: whether a row's own texts are among its candidates, and its image among theirs


class Contrast(NamedTuple):
    """All images against the texts of some slots.

    Where weights are summed over the batch, it is the batch of all ranks.
    """

    kind: Literal["softmax", "sigmoid"]
    slots: slice  #: of K
    mask_Bk: Tensor  #: bool, the texts that take part
    image_weight_B: Tensor  #: softmax: weight of a row's image-to-text loss, divided by the sum of all
    positive_Bk: Tensor  #: softmax: what of a row's target is at each of its own texts
    text_weight_Bk: Tensor  #: softmax: weight of a text's text-to-image loss, divided by the sum of all
    share: float  #: weight among the contrasts that hold any row at all
    own_image_Bk: Tensor | None = None  #: softmax: what of a text's target is at its own image; None: all
    text_to_image: float = 1.0  #: softmax: weight of text-to-image, to 1 of image-to-text
    sharpness: float = 1.0  #: what the scale of the logits is multiplied by
    soft: Likeness | None = None  #: softmax: the rest of the targets, which then sum to 1
    spread: Spread | None = None  #: softmax: the same


def one_slot(text_mask_BK: Tensor, slot: int) -> Contrast:
    """The text of one slot is an image's one positive: softmax both ways, mean over the rows that have it."""
    here = slice(slot, slot + 1)
    mask = text_mask_BK[:, here]
    weight = mask.double()
    return Contrast("softmax", here, mask, weight[:, 0], weight, weight, 1.0)


def all_slots(text_mask_BK: Tensor) -> Contrast:
    """Every text of an image is its positive, in one softmax over the texts of all slots."""
    weight = text_mask_BK.double()
    count = weight.sum(1, keepdim=True)
    whole = slice(0, text_mask_BK.shape[1])
    has_text = (count[:, 0] > 0).double()
    return Contrast("softmax", whole, text_mask_BK, has_text, weight / count.clamp(min=1), weight, 1.0)
