"""Tiles of the logits: the only form in which they ever exist.

A tile is [r, c]: some rows of this rank against some columns.  Everything here is float32 (float64 for float64 input):
under bf16 autocast a logit of 100 would be known to ±0.25 only.

n rows, m columns, D embedding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from training.gather import Columns


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
    """In the precision of the kernels."""
    return values if values.dtype == torch.float64 else values.float()


def tiles(rows: Queries, columns: Columns, scale: Tensor, size: tuple[int, int]) -> Iterator[Tile]:
    """Every pair once; the tiles are `size` (rows, columns) at most.  A tile is the caller's to overwrite."""
    scaled = rows.query * scale
    shared = _shared(rows, columns)
    hidden = (~columns.valid).nonzero()[:, 0]
    all_rows = bool(rows.valid.all())
    for first in range(0, len(columns.key), size[1]):
        there = slice(first, min(first + size[1], len(columns.key)))
        key = columns.key[there].T
        out = _within(hidden, there)
        suspects = _within(shared, there)
        for begin in range(0, len(rows.query), size[0]):
            here = slice(begin, min(begin + size[0], len(rows.query)))
            logits = scaled[here] @ key
            if len(out):
                logits[:, out] = -torch.inf
            if not all_rows:
                logits.masked_fill_(~rows.valid[here, None], -torch.inf)
            if len(suspects):
                at = suspects + there.start
                same = (rows.group[here, None] == columns.group[at]) & (rows.row[here, None] != columns.row[at])
                logits[:, suspects] = logits[:, suspects].masked_fill_(same, -torch.inf)
            yield Tile(logits, here, there)


def _within(indices: Tensor, there: slice) -> Tensor:
    """Which of the sorted `indices` lie in the slice, counted from its start."""
    within: Tensor = indices[(indices >= there.start) & (indices < there.stop)] - there.start
    return within


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
