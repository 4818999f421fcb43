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

#: Logits up to which no reference is subtracted: exp(±40), sums of them and their inverses are far inside the range of
#: float32.
_SMALL = 40.0

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
    whole: bool  #: every pair takes part


class Scratch:
    """Tiles to write to, which share their memory: the system's pages are asked for once a kernel, not once a tile."""

    def __init__(self, like: Tensor, size: tuple[int, int]) -> None:
        """size: of the largest tile, rows and columns."""
        self._like, self._numbers, self._held = like, size[0] * size[1], like.new_empty(0)

    def __call__(self, shape: torch.Size | tuple[int, int]) -> Tensor:
        """[r, c] with anything in it; what an earlier call gave is overwritten."""
        if not len(self._held):
            self._held = self._like.new_empty(self._numbers)
        return self._held[: shape[0] * shape[1]].view(shape)


def wide(values: Tensor) -> Tensor:
    """In the precision of the kernels; integers as they are."""
    return values.float() if values.is_floating_point() and values.dtype != torch.float64 else values


def inner_products(query: Tensor, key: Tensor) -> Tensor:
    """The `Measure` of embeddings."""
    return query @ key.T


def largest_logit(query: Tensor, key: Tensor, scale: Tensor) -> float:
    """What no |scale · query_i·key_c| exceeds (Cauchy and Schwarz)."""
    if not len(query) or not len(key):
        return 0.0
    norms = [torch.linalg.vector_norm(side, dim=1).amax() for side in (query, key)]
    return float(scale.abs() * norms[0] * norms[1])


def small(logit: float) -> bool:
    """Whether exponentials of logits up to this one need no reference; false for nan."""
    return logit <= _SMALL


def tiles(
    rows: Queries,
    columns: Columns,
    scale: Tensor,
    size: tuple[int, int],
    measure: Measure = inner_products,
    *,
    own: bool = True,
    groups: bool = True,
    nothing: float = -torch.inf,
) -> Iterator[Tile]:
    """Every pair once, but for columns where none takes part; the tiles are `size` (rows, columns) at most.

    A tile is the caller's to overwrite until it takes the next one, which may have its memory.
    own: whether a row takes part with its own columns.  groups: whether pairs of one group, but not of one row, take no
    part.  Queries of integers are not scaled.  nothing: what is at pairs that take no part.
    """
    product = _product(rows, columns, scale, size, measure)
    shared = _shared(rows, columns) if groups else rows.row.new_empty(0)
    mine, of_row = (rows.row.new_empty(0), rows.row) if own else _own(rows, columns)
    hidden = (~columns.valid).nonzero()[:, 0]
    all_rows = bool(rows.valid.all())
    for first in range(0, len(columns.key), size[1]):
        there = slice(first, min(first + size[1], len(columns.key)))
        out = _within(hidden, there)
        if len(out) == there.stop - there.start:
            continue
        suspects = _within(shared, there)
        owned = _within(mine, there)
        for begin in range(0, len(rows.query), size[0]):
            here = slice(begin, min(begin + size[0], len(rows.query)))
            logits = product(here, there)
            if len(out):
                logits[:, out] = nothing
            if not all_rows:
                logits.masked_fill_(~rows.valid[here, None], nothing)
            near = suspects
            if len(suspects):
                near = suspects[torch.isin(columns.group[suspects + there.start], rows.group[here])]
            if len(near):
                at = near + there.start
                same = (rows.group[here, None] == columns.group[at]) & (rows.row[here, None] != columns.row[at])
                logits[:, near] = logits[:, near].masked_fill_(same, nothing)
            if len(owned):
                at = of_row[owned + there.start] - begin
                inside = (at >= 0) & (at < len(logits))
                logits[at[inside], owned[inside]] = nothing
            yield Tile(logits, here, there, all_rows and not len(out) + len(near) + len(owned))


def _product(
    rows: Queries, columns: Columns, scale: Tensor, size: tuple[int, int], measure: Measure
) -> Callable[[slice, slice], Tensor]:
    """The logits of some rows and columns, before any is left out."""
    query, key = rows.query, columns.key
    if measure is not inner_products:
        scaled = query * scale if query.is_floating_point() else query
        return lambda here, there: measure(scaled[here], key[there])
    factor = float(scale)
    scratch = Scratch(query, (min(size[0], len(query)), min(size[1], len(key))))

    def product(here: slice, there: slice) -> Tensor:
        logits = scratch((here.stop - here.start, there.stop - there.start))
        return logits.addmm_(query[here], key[there].T, beta=0, alpha=factor)

    return product


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
    of_group = [
        rows.row.new_zeros(len(groups)).scatter_reduce_(0, inverse, rows.row[grouped], end, include_self=False)
        for end in ("amin", "amax")
    ]
    at = torch.searchsorted(groups, columns.group).clamp_(max=len(groups) - 1)
    other = (of_group[0][at] != columns.row) | (of_group[1][at] != columns.row)
    found: Tensor = ((groups[at] == columns.group) & other).nonzero()[:, 0]
    return found
