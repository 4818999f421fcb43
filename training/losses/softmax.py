"""Softmax over columns and over rows in one pass over tiles of the logits, with a gradient written by hand.

    row_i = LSE_c l_ic      col_c = LSE_i l_ic      l_ic = s · q_i·k_c

    dV/dl_ic = w_i exp(l_ic - row_i) + v_c exp(l_ic - col_c)     w_i, v_c: V's derivatives by row_i and col_c

LSE_i runs over the rows of all ranks that share the columns.  Both cross-entropies are Σ w_i row_i + Σ v_c col_c less
the terms at the targets.  Targets at a row's own texts are few and left to plain autograd (see `compose`); a target at
all pairs is the softmax of other logits h, which do not learn, and is made tile by tile as well:

    Σ_ic T_ic l_ic,   T_ic = α_i exp(h_ic - LSE_c h_ic) + β_c exp(h_ic - LSE_i h_ic)

Backward makes each tile again: 8·n·m·D flops in all and O(n·D + tile) memory, where the logits themselves would take
4·n·m bytes several times over.  The idea is that of FlashAttention (Dao et al. 2022) and Inf-CLIP (Cheng et al. 2024).

n rows of this rank, m own columns, M columns of all ranks, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from training.gather import Columns, Exchange, Lse
from training.losses.tiles import Measure, Queries, Tile, inner_products, tiles, wide
from training.precision import full_precision

#: Differences of log-sum-exps, in nats, up to which one exponential serves rows and columns: exp(±60) is far inside
#: the range of float32, and what is lost is e-27 of the largest term.
_NEAR = 60.0


class SoftTarget(NamedTuple):
    """T of the module's docstring, but for what travels with the columns.

    Their `extra` is (key of h, LSE_i h, β), or (key of h,) where β is 0 everywhere.
    """

    query: Tensor  #: [n, …], of h
    measure: Measure  #: (query, key) -> h
    own: bool  #: whether h has the pairs of a row with its own columns
    row_lse: Tensor  #: [n], LSE_c h; finite
    row_weight: Tensor  #: [n], α
    relative: bool  #: the sum is Σ T (l - h): a divergence is wanted, not a cross-entropy


class Bend(NamedTuple):
    """Logits that are not linear in the inner products x: functions of a tile, which keep -inf."""

    value: Callable[[Tensor], Tensor]  #: l(x)
    slope: Callable[[Tensor], Tensor]  #: dl/dx, or what stands in for it


class LogSums(NamedTuple):
    """What the kernel gives for this rank: row_i [n], col_c of the own columns [m], and Σ T l of its rows."""

    row: Tensor
    column: Tensor
    at_soft: Tensor


class _How(NamedTuple):
    exchange: Exchange
    tile: tuple[int, int]
    measure: Measure
    own: bool
    soft: SoftTarget | None
    bend: Bend | None


def log_sums(
    rows: Queries,
    columns: Columns,
    scale: Tensor,
    *,
    exchange: Exchange,
    tile: tuple[int, int],
    measure: Measure = inner_products,
    own: bool = True,
    soft: SoftTarget | None = None,
    bend: Bend | None = None,
    standing: Columns | None = None,
) -> LogSums:
    """The log-sum-exps of the module's docstring; their weights are whatever the caller makes of them.

    A sum over ranks of a function of them has as gradient, with respect to `rows.query`, `columns.key` and `scale`, the
    sum over ranks of those computed here.  measure: another than the default has no gradient.  own: as `tiles`.
    standing: columns that every rank has and that do not learn, such as a queue; they are in the sums of rows only.
    """
    how = _How(exchange, tile, measure, own, soft, bend)
    found = _Softmax.apply(rows.query, columns.key, scale, rows, columns, standing, how)
    return LogSums(*found)


def softmax_value(
    rows: Queries, columns: Columns, scale: Tensor, *, exchange: Exchange, tile: tuple[int, int]
) -> Tensor:
    """Σ w_i row_i + Σ v_c col_c of this rank's rows and own columns, of their own weights, times the number of ranks.

    The mean over ranks of its gradients is the gradient of the sum over ranks.
    """
    found = log_sums(rows, columns, scale, exchange=exchange, tile=tile)
    value: Tensor = weighted(wide(rows.weight), found.row) + weighted(wide(columns.weight), found.column)
    return exchange.world * value


def weighted(weight: Tensor, lse: Tensor) -> Tensor:
    """Σ weight · lse, where -inf without weight counts for nothing."""
    return (weight * torch.where(weight == 0, 0.0, lse)).sum()


def finite(lse: Tensor, weight: Tensor) -> Tensor:
    """Log-sum-exps with 0 for those without a term, whose weight must be 0."""
    return torch.where(weight == 0, _ref(lse), lse)


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        scale: Tensor,
        rows: Queries,
        columns: Columns,
        standing: Columns | None,
        how: _How,
    ) -> tuple[Tensor, Tensor, Tensor]:
        rows = rows._replace(query=wide(query.detach()))
        columns = columns.map(Tensor.detach)
        columns = replace(columns, key=wide(columns.key))
        scale_value = wide(scale.detach())
        row_lse = scale_value.new_full((len(query),), -torch.inf)
        at_soft = scale_value.new_zeros(())

        def visit(block: Columns) -> Lse:
            nonlocal row_lse, at_soft
            largest = row_lse.new_full((len(block.key),), -torch.inf)
            total = row_lse.new_zeros(len(block.key))
            row_max, row_sum = largest.new_full((len(query),), -torch.inf), largest.new_zeros(len(query))
            for part, other in _paired(rows, block, scale_value, how):
                logits = part.logits if how.bend is None else how.bend.value(part.logits)
                if how.soft is not None and other is not None:
                    at_soft = at_soft + _at_soft(logits, part, other, block, how.soft)
                by_row, by_column = _tile_sums(logits)
                _add(row_max[part.rows], row_sum[part.rows], *by_row)
                _add(largest[part.columns], total[part.columns], *by_column)
            row_lse = torch.logaddexp(row_lse, row_max + row_sum.log())
            return largest, total

        with full_precision(query.device):
            largest, total = how.exchange.lse(columns, visit)
            if standing is not None:
                visit(standing)
        column_lse = largest + total.log()
        ctx.rows, ctx.columns, ctx.standing, ctx.how = rows, columns, standing, how
        ctx.save_for_backward(scale_value, row_lse, column_lse)
        ctx.dtypes = query.dtype, key.dtype, scale.dtype
        return row_lse, column_lse, at_soft

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        rows: Queries = ctx.rows
        how: _How = ctx.how
        scale, row_lse, column_lse = ctx.saved_tensors
        row_weight, column_weight, soft_weight = upstream
        row_lse = finite(row_lse, row_weight)
        d_query = torch.zeros_like(rows.query)
        learns = ctx.needs_input_grad[1]

        def visit(block: Columns, lse: Tensor) -> Tensor:
            lse = finite(lse, block.weight)
            d_key = torch.zeros_like(block.key)
            for part, other in _paired(rows, block, scale, how):
                here, there = part.rows, part.columns
                inner = None if how.bend is None else how.bend.slope(part.logits)
                logits = part.logits if how.bend is None else how.bend.value(part.logits)
                slope = _slope(logits, row_lse[here], lse[there], row_weight[here], block.weight[there])
                if how.soft is not None and other is not None:
                    slope.add_(_target(other, part, block, how.soft).mul_(soft_weight))
                if inner is not None:
                    slope.mul_(inner)
                d_query[here].addmm_(slope, block.key[there])
                if learns:
                    d_key[there].addmm_(slope.T, rows.query[here])
            return d_key

        with full_precision(rows.query.device):
            d_key = how.exchange.gradient(replace(ctx.columns, weight=column_weight), column_lse, visit)
            learns = False
            if ctx.standing is not None:
                none = row_lse.new_zeros(len(ctx.standing.key))
                visit(replace(ctx.standing, weight=none), none)
        # Σ G⊙(q·k) needs no tile: it is Σ_i q_i·(G K)_i.
        d_scale = (d_query * rows.query).sum()
        query_dtype, key_dtype, scale_dtype = ctx.dtypes
        d_query, d_key = d_query * scale, d_key * scale
        return d_query.to(query_dtype), d_key.to(key_dtype), d_scale.to(scale_dtype), None, None, None, None


def _paired(rows: Queries, block: Columns, scale: Tensor, how: _How) -> Iterator[tuple[Tile, Tensor | None]]:
    """The tiles of the logits, each with that of the soft target's logits if there is a target."""
    mine = tiles(rows, block, scale, how.tile, how.measure, own=how.own)
    if how.soft is None:
        yield from ((part, None) for part in mine)
        return
    soft = how.soft
    others = tiles(
        rows._replace(query=soft.query),
        replace(block, key=block.extra[0]),
        torch.ones_like(scale),
        how.tile,
        soft.measure,
        own=soft.own,
    )
    for part, other in zip(mine, others, strict=True):
        yield part, other.logits


def _target(other: Tensor, part: Tile, block: Columns, soft: SoftTarget) -> Tensor:
    """T at a tile, of the logits h, which it overwrites."""
    row_lse, row_weight = soft.row_lse[part.rows, None], soft.row_weight[part.rows, None]
    if len(block.extra) == 1:
        return other.sub_(row_lse).exp_().mul_(row_weight)
    _, lse, weight = (extra[part.columns] for extra in block.extra)
    return _slope(other, row_lse[:, 0], lse, row_weight[:, 0], weight)


def _at_soft(logits: Tensor, part: Tile, other: Tensor, block: Columns, soft: SoftTarget) -> Tensor:
    """Σ T l of a tile, or Σ T (l - h)."""
    gap = logits - other if soft.relative else logits
    # 0 · -inf where a pair takes no part.  What else is not a number is so in the log-sum-exps too.
    return _target(other, part, block, soft).mul_(gap).nansum()


def _tile_sums(logits: Tensor) -> tuple[Lse, Lse]:
    """(reference, Σ exp(l - reference)) by row and by column; overwrites the tile."""
    by_row, by_column = logits.amax(1), logits.amax(0)
    if logits.device.type == "cpu" and _spread(by_row, by_column) < _NEAR:
        top = by_row.max()
        logits.sub_(top).exp_()
        return (top.expand(len(by_row)), logits.sum(1)), (top.expand(len(by_column)), logits.sum(0))
    # On a GPU the question itself would cost more than the second exponential: it waits for the device.
    row_ref, column_ref = _ref(by_row), _ref(by_column)
    column_sum = (logits - column_ref).exp_().sum(0)
    row_sum = logits.sub_(row_ref[:, None]).exp_().sum(1)
    return (by_row, row_sum), (by_column, column_sum)


def _spread(by_row: Tensor, by_column: Tensor) -> float:
    """How far the largest logits of rows and columns lie apart; inf where one has none at all."""
    return float(torch.maximum(by_row.max(), by_column.max()) - torch.minimum(by_row.min(), by_column.min()))


def _slope(logits: Tensor, row_lse: Tensor, column_lse: Tensor, row_weight: Tensor, column_weight: Tensor) -> Tensor:
    """w_i exp(l - row_i) + v_c exp(l - col_c); overwrites the tile."""
    if logits.device.type == "cpu" and _spread(row_lse, column_lse) < _NEAR:
        middle = row_lse.mean()
        factor = torch.outer((row_lse - middle).exp(), column_weight * (middle - column_lse).exp())
        return logits.sub_(row_lse[:, None]).exp_().mul_(factor.add_(row_weight[:, None]))
    by_column = (logits - column_lse).exp_().mul_(column_weight)
    return by_column.addcmul_(logits.sub_(row_lse[:, None]).exp_(), row_weight[:, None])


def _add(largest: Tensor, total: Tensor, reference: Tensor, found: Tensor) -> None:
    """Add to running (reference, sum) pairs, in place."""
    common = torch.maximum(largest, reference)
    ref = _ref(common)
    total.mul_((largest - ref).exp_()).add_(found * (reference - ref).exp_())
    largest.copy_(common)


def _ref(values: Tensor) -> Tensor:
    """To subtract from logits: 0 where there is none, so that exp(-inf - 0) is 0."""
    return torch.where(torch.isinf(values), 0.0, values)
