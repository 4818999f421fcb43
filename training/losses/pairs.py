"""Pairs of vectors of different rows, over the peers of a mode: what terms that contrast nothing are made of.

n vectors of this rank, M vectors of its peers, B rows of this rank, K text slots, D embedding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from training.gather import Columns, Exchange
from training.losses.present import row_numbers
from training.losses.row_lse import RowLse, row_lse
from training.losses.tiles import Queries, wide

if TYPE_CHECKING:
    from training.model import Rows


class Members(NamedTuple):
    """Vectors that belong to rows of this rank, [n, …]."""

    value: Tensor  #: [n, D], zeros where not valid
    valid: Tensor  #: bool
    row: Tensor  #: int64, number of the row over all ranks
    family: Tensor  #: int64, the same for rows of one group, another one for each row without a group


class Batch(NamedTuple):
    """The rows of this rank as members."""

    image: Members  #: [B, D]
    texts: tuple[Members, ...]  #: of each slot, [B, D]
    rows: Tensor  #: bool [B], a row with a text

    def all_texts(self) -> Members:
        """The texts of all slots, [B·K, D], those of a row one after the other."""
        return joined(self.texts)


def joined(parts: tuple[Members, ...]) -> Members:
    """Members of the same rows as one, [B·parts, D], those of a row one after the other."""
    return Members(*(torch.stack(fields, dim=1).flatten(0, 1) for fields in zip(*parts, strict=True)))


def members(image_BD: Tensor, text_BKD: Tensor, rows: Rows, exchange: Exchange) -> Batch:
    """The rows of this rank; what belongs to a missing text becomes zeros.  A collective call."""
    mask_BK = rows.text_mask_BK
    valid = mask_BK.any(1)
    number = row_numbers(len(valid), exchange, valid.device)
    alone = -2 - number
    families = exchange.contrasted(torch.where(rows.group_B >= 0, rows.group_B, alone))
    # Small numbers from 0: the kernels' word for a group.
    family = torch.unique(families, return_inverse=True)[1].chunk(exchange.peers)[exchange.place]

    def of(value: Tensor, there: Tensor) -> Members:
        return Members(wide(torch.where(there[:, None], value, 0.0)), there, number, family)

    texts = tuple(of(text_BKD[:, k], mask_BK[:, k]) for k in range(mask_BK.shape[1]))
    return Batch(of(image_BD, valid), texts, valid)


def lse_over(
    one: Members, other: Members, scale: Tensor, *, own: bool, exchange: Exchange, tile: tuple[int, int]
) -> RowLse:
    """log Σ exp(scale · one_i·other_j) over the peers' vectors j of other rows; of no other row of i's family.

    own: over those of i's own row too.  A collective call.
    """
    weight = one.valid.to(one.value.dtype)
    # A number that no column has: then the own row is another row of the family.
    row = one.row if own else torch.full_like(one.row, -1)
    rows = Queries(one.value, one.valid, weight, row, one.family)
    columns = Columns(other.value, other.valid, other.valid.to(other.value.dtype), other.row, other.family)
    return row_lse(rows, columns, scale, exchange=exchange, tile=tile)


def gathered(one: Members, exchange: Exchange) -> Members:
    """The peers' members, [M, D], all in memory at once.  A collective call."""
    return Members(*(exchange.contrasted(values) for values in one))


def logits_against(one: Members, everyone: Members, scale: Tensor) -> Tensor:
    """scale · one_i·everyone_j [n, M]; -inf for what is not valid and for other rows of i's family.

    O(n·M) memory.  A row that is not valid has zeros, so that no gradient becomes nan.
    """
    hidden = (one.family[:, None] == everyone.family) & (one.row[:, None] != everyone.row) | ~everyone.valid
    logits = scale * one.value @ everyone.value.T
    return logits.masked_fill(hidden, -torch.inf).masked_fill(~one.valid[:, None], 0.0)


def log_mean_energy(one: Members, other: Members, t: float, *, exchange: Exchange, tile: tuple[int, int]) -> Tensor:
    """log mean exp(-t ‖a − b‖²) over the pairs of vectors of different rows and families; 0 if there is none.

    The mean runs over the peers' whole batch, and each of them gets the same.  A collective call.
    """
    one, other = _lifted(one, first=True), _lifted(other, first=False)
    lse, count = lse_over(one, other, one.value.new_tensor(2 * t), own=False, exchange=exchange, tile=tile)
    # No summand exceeds 1, and float64 holds all that a t of up to 100 can give.
    energy = torch.where(count > 0, torch.where(count > 0, lse, 0.0).double().exp(), 0.0)
    sums = exchange.summed(torch.stack([energy.sum(), count.sum().double()]))
    found = torch.where(sums[1] > 0, sums, 1.0)
    return (found[0].log() - found[1].log()).to(one.value.dtype)


def _lifted(one: Members, *, first: bool) -> Members:
    """With two more numbers, so that the inner product of a first and another vector is −½ ‖a − b‖²."""
    half = one.value.square().sum(1, keepdim=True) / -2
    pair = (half, torch.ones_like(half)) if first else (torch.ones_like(half), half)
    return one._replace(value=torch.cat([one.value, *pair], dim=1))


def peers_share(valid_B: Tensor, exchange: Exchange) -> Tensor:
    """What a loss of the peers' batch is multiplied by, for the mean over ranks to weigh each row alike; float64.

    1 where the peers are all ranks; their rows over their share of all rows otherwise.  A collective call.
    """
    count = valid_B.sum().double()
    share: Tensor = exchange.world * exchange.summed(count) / (exchange.peers * exchange.total(count).clamp(min=1.0))
    return share
