"""Log-sum-exps of rows over columns, and how many columns each row has.

n rows of this rank, m own columns, D embedding.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from training.gather import Columns, Exchange, Lse
from training.losses.softmax import log_sums
from training.losses.tiles import Queries


class RowLse(NamedTuple):
    """Both [n]."""

    lse: Tensor  #: differentiable; -inf where a row has no column
    columns: Tensor  #: int64, how many there are


def row_lse(rows: Queries, columns: Columns, scale: Tensor, *, exchange: Exchange, tile: tuple[int, int]) -> RowLse:
    """The log-sum-exp of each own row over the columns of all peers that take part (`tiles` says which).

    The gradients at queries, keys and scale are those of all peers' log-sum-exps (rule R1).  A collective call.
    """
    found = log_sums(rows, columns, scale, exchange=exchange, tile=tile, by_column=False)
    return RowLse(found.row, _counts(rows, columns, exchange))


def _counts(rows: Queries, columns: Columns, exchange: Exchange) -> Tensor:
    """All valid columns but those of other rows of a row's group, which are those of its group less its own."""
    found = torch.zeros_like(rows.row)

    def visit(block: Columns) -> Lse:
        row, group = (part[block.valid] for part in (block.row, block.group))
        others = how_often(rows.group, group) - how_often(rows.row, row)
        found.add_(len(row) - torch.where(rows.group >= 0, others, 0))
        nothing = block.key.new_zeros(len(block.key))
        return nothing, nothing.clone()

    exchange.lse(replace(columns, key=columns.key.detach()[:, :1], extra=()), visit)
    return torch.where(rows.valid, found, 0)


def how_often(values: Tensor, among: Tensor) -> Tensor:
    """How many times each of some integers is among others."""
    ordered = among.sort().values
    return torch.searchsorted(ordered, values, right=True) - torch.searchsorted(ordered, values)
