"""What a loss is given, and what it gives back.

B rows of this rank, K text slots, D embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class LossInputs(NamedTuple):
    """One rank's rows.  Every rank has the same B and K; what is missing is masked."""

    image_BD: Tensor  #: L2-normalised
    text_BKD: Tensor  #: L2-normalised
    text_mask_BK: Tensor  #: bool: the slot holds a text (and its row an image)
    scale: Tensor  #: scalar, 1/temperature: exp of the learnt parameter
    bias: Tensor | None  #: scalar, of sigmoid losses
    group_B: Tensor  #: int64, rows of one group are no negatives of each other; -1 for none


class LossOutput(NamedTuple):
    """The mean of `total` over ranks is the loss of the whole batch, and so is the mean of its gradients (rule R1)."""

    total: Tensor  #: scalar
    parts: Mapping[str, Tensor]  #: scalars that add up to `total`, detached
    #: For the log, by name: [2], how many of this rank's rows and of how many; detached, the same names on all ranks.
    rates: Mapping[str, Tensor] = {}
