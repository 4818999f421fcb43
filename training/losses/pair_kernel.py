"""Softmax over columns and over rows of any similarity, tile by tile: `softmax` for pairs without a dot product.

    V = Σ_i w_i [LSE_c a_ic - Σ_c p_ic a_ic]  +  Σ_c v_c [LSE_i b_ic - Σ_i q_ic b_ic]

a, b: the logits of a tile of pairs, by a function that plain autograd differentiates; often a = b.  p, q: targets, a
row's own columns (`Columns.extra`) and a column's own row, smoothed over all pairs that take part.  Or, with `joint`,
one softmax a row, over all that shares its image or its texts (MIL-NCE, Miech et al. 2020):

    V = Σ_i w_i [LSE({a_ic: all c} ∪ {a_jc: c of row i, j ≠ i}) - LSE_{c of row i} a_ic]

Backward computes each tile again with a graph of its own: memory is O(n + m) features and what one tile takes.

n rows of this rank, m own columns, M columns of all ranks; r rows and c columns of a tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from training.gather import Columns, Exchange, Lse
from training.losses.softmax import weighted
from training.losses.tiles import Queries, wide
from training.precision import full_precision

#: (query [r, …], columns' key [c, …], columns' extra [c, E], shared tensors) -> a and b of V, [r, c] each, finite.
Logits = Callable[[Tensor, Tensor, Tensor, tuple[Tensor, ...]], tuple[Tensor, Tensor]]


class Pairs(NamedTuple):
    """What is computed of the pairs."""

    logits: Logits
    tile: tuple[int, int]  #: pairs held at a time, rows and columns
    smoothing: float = 0.0  #: share of each target that lies on all pairs that take part, alike
    joint: bool = False


class _Tile(NamedTuple):
    """Where a tile of pairs lies, which of them take no part, and which are of one row."""

    rows: slice
    columns: slice
    out: Tensor
    own: Tensor


def pair_loss(
    rows: Queries, columns: Columns, pairs: Pairs, exchange: Exchange, shared: tuple[Tensor, ...] = ()
) -> Tensor:
    """V of the module's docstring: this rank's rows and own columns, times the number of ranks.

    rows.query: [n, …].  columns.extra: one tensor [m, E]; its first number is the share of the row's target that the
    column has, the rest is given to `pairs.logits`.  shared: tensors that all pairs share, such as a scale.
    The mean over ranks of its gradients is that of the sum over ranks.  A collective call.
    """
    value: Tensor = _PairLoss.apply(rows.query, columns.key, rows, columns, pairs, exchange, *shared)
    return value


class _PairLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        rows: Queries,
        columns: Columns,
        pairs: Pairs,
        exchange: Exchange,
        *shared: Tensor,
    ) -> Tensor:
        rows = rows._replace(query=wide(query.detach()), weight=wide(rows.weight))
        columns = columns.map(Tensor.detach)
        columns = replace(columns, key=wide(columns.key), weight=wide(columns.weight))
        common = tuple(wide(one.detach()) for one in shared)
        row_share, columns = _smoothed(rows, columns, pairs, exchange)
        row_lse, own_lse = (rows.query.new_full((len(query),), -torch.inf) for _ in range(2))
        at_target = rows.query.new_zeros(())

        def visit(block: Columns) -> Lse:
            nonlocal row_lse, own_lse
            column_lse = block.weight.new_full((len(block.weight),), -torch.inf)
            for part in _tiles(rows, block, pairs.tile):
                by_row, by_column = _logits(pairs, rows, block, part, common)
                if pairs.joint:
                    own_lse[part.rows] = torch.logaddexp(own_lse[part.rows], _hidden(by_row, ~part.own).logsumexp(1))
                    by_column = _hidden(by_column, part.own)
                else:
                    for logits, target in zip(
                        (by_row, by_column), _targets(rows, block, part, row_share, pairs.smoothing), strict=True
                    ):
                        at_target.add_((target * logits.masked_fill(part.out, 0.0)).sum())
                row_lse[part.rows] = torch.logaddexp(row_lse[part.rows], by_row.logsumexp(1))
                column_lse[part.columns] = torch.logaddexp(column_lse[part.columns], by_column.logsumexp(0))
            return column_lse, torch.isfinite(column_lse).to(column_lse.dtype)

        with full_precision(query.device):
            largest, total = exchange.lse(columns, visit)
        column_lse = largest + total.log()
        if pairs.joint:
            row_lse = torch.logaddexp(row_lse, column_lse.view(len(query), -1).logsumexp(1))
            column_lse = row_lse.repeat_interleave(len(columns.key) // len(query))
            mine = weighted(rows.weight, row_lse) - weighted(rows.weight, own_lse)
        else:
            mine = weighted(rows.weight, row_lse) + weighted(columns.weight, column_lse) - at_target
        ctx.rows, ctx.columns, ctx.pairs, ctx.exchange = rows, columns, pairs, exchange
        ctx.save_for_backward(row_lse, own_lse, column_lse, row_share, *common)
        ctx.dtypes = query.dtype, key.dtype, tuple(one.dtype for one in shared)
        return mine * exchange.world

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        rows: Queries = ctx.rows
        pairs: Pairs = ctx.pairs
        row_lse, own_lse, column_lse, row_share, *common = ctx.saved_tensors
        row_lse, own_lse, column_lse = (torch.nan_to_num(lse, neginf=0.0) for lse in (row_lse, own_lse, column_lse))
        d_query, d_shared = torch.zeros_like(rows.query), [torch.zeros_like(one) for one in common]

        def visit(block: Columns, lse: Tensor) -> Tensor:
            d_key = torch.zeros_like(block.key)
            for part in _tiles(rows, block, pairs.tile):
                here, there = part.rows, part.columns
                leaves = [rows.query[here], block.key[there], *common]
                leaves = [leaf.detach().requires_grad_() for leaf in leaves]
                with torch.enable_grad():
                    found = pairs.logits(leaves[0], leaves[1], _extra(block, there), tuple(leaves[2:]))
                by_row, by_column = (_hidden(logits.detach(), part.out) for logits in found)
                d_row = (by_row - row_lse[here, None]).exp_().mul_(rows.weight[here, None])
                if pairs.joint:
                    d_row -= _hidden(by_row - own_lse[here, None], ~part.own).exp_().mul_(rows.weight[here, None])
                d_column = _hidden(by_column - lse[there], part.own if pairs.joint else part.out).exp_()
                d_column.mul_(block.weight[there])
                if not pairs.joint:
                    to_row, to_column = _targets(rows, block, part, row_share, pairs.smoothing)
                    d_row, d_column = d_row - to_row, d_column - to_column
                slope_of = [d.masked_fill_(part.out, 0.0) for d in (d_row, d_column)]
                outputs: Sequence[Tensor] = found
                if found[0] is found[1]:
                    outputs, slope_of = found[:1], [slope_of[0] + slope_of[1]]
                slopes = torch.autograd.grad(outputs, leaves, slope_of, allow_unused=True)
                for into, slope in zip([d_query[here], d_key[there], *d_shared], slopes, strict=True):
                    if slope is not None:
                        into.add_(slope)
            return d_key

        with full_precision(rows.query.device):
            d_key = ctx.exchange.gradient(ctx.columns, column_lse, visit)
        factor = upstream[0] * ctx.exchange.world
        query_dtype, key_dtype, shared_dtypes = ctx.dtypes
        own = [(d * factor).to(dtype) for d, dtype in zip(d_shared, shared_dtypes, strict=True)]
        return (d_query * factor).to(query_dtype), (d_key * factor).to(key_dtype), None, None, None, None, *own


def _tiles(rows: Queries, columns: Columns, size: tuple[int, int]) -> Iterator[_Tile]:
    """Every pair once."""
    for first in range(0, len(columns.key), size[1]):
        there = slice(first, min(first + size[1], len(columns.key)))
        for begin in range(0, len(rows.query), size[0]):
            here = slice(begin, min(begin + size[0], len(rows.query)))
            own = rows.row[here, None] == columns.row[there]
            group = rows.group[here, None]
            spared = (group == columns.group[there]) & (group >= 0) & ~own
            yield _Tile(here, there, spared | ~(rows.valid[here, None] & columns.valid[there]), own)


def _logits(
    pairs: Pairs, rows: Queries, block: Columns, part: _Tile, shared: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    by_row, by_column = pairs.logits(
        rows.query[part.rows], block.key[part.columns], _extra(block, part.columns), shared
    )
    return _hidden(by_row, part.out), _hidden(by_column, part.out)


def _extra(block: Columns, there: slice) -> Tensor:
    """What the similarity is given of the columns: all but the two numbers of the targets."""
    return _all_extra(block)[there, 2:]


def _all_extra(block: Columns) -> Tensor:
    if not block.extra:
        raise ValueError("columns of a pair loss must have `extra`: their share of the row's target")
    return block.extra[0]


def _targets(rows: Queries, block: Columns, part: _Tile, row_share: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """w_i p_ic and v_c q_ic of a tile."""
    extra, weight = _all_extra(block)[part.columns], block.weight[part.columns]
    sharp = (part.own & ~part.out).to(weight.dtype) * (1 - smoothing)
    by_row, by_column = sharp * extra[:, 0], sharp
    if smoothing:
        flat = (~part.out).to(weight.dtype) * smoothing
        by_row, by_column = by_row + flat * row_share[part.rows, None], by_column + flat * extra[:, 1]
    return rows.weight[part.rows, None] * by_row, weight * by_column


def _smoothed(rows: Queries, columns: Columns, pairs: Pairs, exchange: Exchange) -> tuple[Tensor, Columns]:
    """One over the pairs that take part, of each row; the columns with theirs as the second number of `extra`."""
    in_row = rows.query.new_zeros(len(rows.query))
    in_column = columns.weight.new_zeros((len(columns.key), 1))
    if pairs.smoothing:

        def visit(block: Columns, _: Tensor) -> Tensor:
            found = block.weight.new_zeros((len(block.weight), 1))
            for part in _tiles(rows, block, pairs.tile):
                in_row[part.rows] += (~part.out).sum(1)
                found[part.columns, 0] += (~part.out).sum(0)
            return found

        in_column = exchange.gradient(columns, columns.weight, visit)
    extra = _all_extra(columns).to(columns.weight.dtype)
    shares = [1 / count.clamp(min=1) for count in (in_row, in_column)]
    return shares[0], replace(columns, extra=(torch.cat([extra[:, :1], shares[1], extra[:, 1:]], 1),))


def _hidden(logits: Tensor, out: Tensor) -> Tensor:
    return logits.masked_fill(out, -torch.inf)
