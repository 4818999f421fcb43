"""Tiles of the logits: the only form in which they ever exist.

A tile is [r, c]: some rows of this rank against some columns.  Everything here is float32 (float64 for float64 input):
under bf16 autocast a logit of 100 would be known to ±0.25 only.

n rows, m columns, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from training.gather import Columns

#: (queries [r, …] that are scaled, keys [c, …]) -> logits [r, c].
Measure = Callable[[Tensor, Tensor], Tensor]


class Queries(NamedTuple):
    """The rows of this rank (images): query [n, D], valid [n] bool, weight [n], row [n] int64, group [n] int64."""

    query: Tensor
    valid: Tensor
    weight: Tensor
    row: Tensor
    group: Tensor


class Tile(NamedTuple):
    """Logits scale·query·keyᵀ [r, c] with -inf where a pair takes no part, and where the tile lies."""

    logits: Tensor
    rows: slice
    columns: slice


def wide(values: Tensor) -> Tensor:
    """In the precision of the kernels; integers as they are."""
    return values.float() if values.is_floating_point() and values.dtype != torch.float64 else values


def inner_products(query: Tensor, key: Tensor) -> Tensor:
    """The `Measure` of embeddings."""
    return query @ key.T


def tiles(
    rows: Queries,
    columns: Columns,
    scale: Tensor,
    size: tuple[int, int],
    measure: Measure = inner_products,
    *,
    own: bool = True,
    groups: bool = True,
) -> Iterator[Tile]:
    """Every pair once; the tiles are `size` (rows, columns) at most.  A tile is the caller's to overwrite.

    own: whether a row takes part with its own columns.  groups: whether pairs of one group, but not of one row, take no
    part.  Queries of integers are not scaled.
    """
    scaled = rows.query * scale if rows.query.is_floating_point() else rows.query
    shared = _shared(rows, columns) if groups else rows.row.new_empty(0)
    mine, of_row = (rows.row.new_empty(0), rows.row) if own else _own(rows, columns)
    hidden = (~columns.valid).nonzero()[:, 0]
    all_rows = bool(rows.valid.all())
    for first in range(0, len(columns.key), size[1]):
        there = slice(first, min(first + size[1], len(columns.key)))
        key = columns.key[there]
        out = _within(hidden, there)
        suspects = _within(shared, there)
        owned = _within(mine, there)
        for begin in range(0, len(rows.query), size[0]):
            here = slice(begin, min(begin + size[0], len(rows.query)))
            logits = measure(scaled[here], key)
            if len(out):
                logits[:, out] = -torch.inf
            if not all_rows:
                logits.masked_fill_(~rows.valid[here, None], -torch.inf)
            if len(suspects):
                at = suspects + there.start
                same = (rows.group[here, None] == columns.group[at]) & (rows.row[here, None] != columns.row[at])
                logits[:, suspects] = logits[:, suspects].masked_fill_(same, -torch.inf)
            if len(owned):
                at = of_row[owned + there.start] - begin
                inside = (at >= 0) & (at < len(logits))
                logits[at[inside], owned[inside]] = -torch.inf
            yield Tile(logits, here, there)


def _within(indices: Tensor, there: slice) -> Tensor:
    """Which of the sorted `indices` lie in the slice, counted from its start."""
    within: Tensor = indices[(indices >= there.start) & (indices < there.stop)] - there.start
    return within


def _own(rows: Queries, columns: Columns) -> tuple[Tensor, Tensor]:
    """Columns that belong to a row here, and the place [m] of each column's row; rows are consecutive."""
    place = columns.row - rows.row[0]
    mine: Tensor = ((place >= 0) & (place < len(rows.row))).nonzero()[:, 0]
    return mine, place


def _shared(rows: Queries, columns: Columns) -> Tensor:
    """Columns whose group is also that of another row here: few, so that the rest need no comparison."""
    grouped = rows.group >= 0
    if not bool(grouped.any()):
        return rows.row.new_empty(0)
    groups, inverse = torch.unique(rows.group[grouped], return_inverse=True)
    members = torch.bincount(inverse, minlength=len(groups))
    first = rows.row.new_zeros(len(groups)).scatter_(0, inverse, rows.row[grouped])
    at = torch.searchsorted(groups, columns.group).clamp_(max=len(groups) - 1)
    other = (members[at] > 1) | (first[at] != columns.row)
    found: Tensor = ((groups[at] == columns.group) & other).nonzero()[:, 0]
    return found
