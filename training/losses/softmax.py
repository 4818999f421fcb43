"""Softmax over columns and over rows in one pass over tiles of the logits, with a gradient written by hand.

    row_i = LSE_c l_ic      col_c = LSE_i l_ic      l_ic = s · q_i·k_c

    dV/dl_ic = w_i exp(l_ic - row_i) + v_c exp(l_ic - col_c)     w_i, v_c: V's derivatives by row_i and col_c

LSE_i runs over the rows of all ranks that share the columns.  Both cross-entropies are Σ w_i row_i + Σ v_c col_c less
the terms at the targets.  Targets at a row's own texts are few and left to plain autograd (see `compose`), and so are
targets that are alike at all pairs (`spread`); any other target at all pairs is made tile by tile as well, of numbers
t_ic that do not learn:

    row_mean_i = Σ_c t_ic l_ic / Σ_c t_ic      col_mean_c = Σ_i t_ic l_ic / Σ_i t_ic

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
from training.losses.exponentials import Sums, exponentials, finite, slope_of, summed
from training.losses.tiles import Measure, Queries, Scratch, Tile, inner_products, largest_logit, small, tiles, wide
from training.precision import full_precision


class SoftTarget(NamedTuple):
    """t of the module's docstring; its keys are the columns' `extra`, alone."""

    query: Tensor  #: [n, …]
    measure: Measure  #: (query, key) -> log t, or t
    both: bool  #: whether columns have the target as well as rows
    logs: bool = True  #: the measure is of log t
    relative: bool = False  #: the means are of l - log t: a divergence is wanted, not a cross-entropy


class Bend(NamedTuple):
    """Logits that are not linear in the inner products x: functions of a tile, which may overwrite it."""

    value: Callable[[Tensor], Tensor]  #: l(x); where x is -inf, anything
    slope: Callable[[Tensor, Tensor], Tensor]  #: (x, to be overwritten) -> dl/dx, or what stands in for it
    bound: Callable[[float], float]  #: the largest |l| of any |x| up to a number


class LogSums(NamedTuple):
    """What the kernel gives for this rank's rows [n] and own columns [m].

    Empty [0] without the target.
    """

    row: Tensor
    column: Tensor
    row_mean: Tensor  #: 0 where all t are 0
    column_mean: Tensor
    row_target: Tensor  #: log Σ t, without gradient
    column_target: Tensor


class _How(NamedTuple):
    exchange: Exchange
    tile: tuple[int, int]
    own: bool
    by_column: bool
    soft: SoftTarget | None
    bend: Bend | None


def log_sums(
    rows: Queries,
    columns: Columns,
    scale: Tensor,
    *,
    exchange: Exchange,
    tile: tuple[int, int],
    own: bool = True,
    by_column: bool = True,
    soft: SoftTarget | None = None,
    bend: Bend | None = None,
) -> LogSums:
    """The log-sum-exps of the module's docstring; their weights are whatever the caller makes of them.

    A sum over ranks of a function of them has as gradient, with respect to `rows.query`, `columns.key` and `scale`, the
    sum over ranks of those computed here.  own: as `tiles`.  by_column: false: those of columns are not computed.
    """
    how = _How(exchange, tile, own, by_column, soft, bend)
    return LogSums(*_Softmax.apply(rows.query, columns.key, scale, rows, columns, how))


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


def _results(largest: Tensor, total: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of [k, S]: LSE l, and with a target Σ t l / Σ t, 0 where there is no t, and log Σ t; nothing [0] without."""
    log = largest + total.log()
    if total.shape[1] < 3:
        return log[:, 0], total.new_zeros(0), total.new_zeros(0)
    some = total[:, 1] != 0
    return log[:, 0], torch.where(some, total[:, 2] / total[:, 1].where(some, total.new_ones(())), 0.0), log[:, 1]


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, scale: Tensor, rows: Queries, columns: Columns, how: _How
    ) -> tuple[Tensor, ...]:
        rows = rows._replace(query=wide(query.detach()))
        columns = columns.map(Tensor.detach)
        columns = replace(columns, key=wide(columns.key))
        scale_value = wide(scale.detach())
        of_rows = Sums(scale_value, len(query), 3 if how.soft is not None else 1)
        column_sums = 3 if how.soft is not None and how.soft.both else 1

        def visit(block: Columns) -> Lse:
            of_columns = Sums(scale_value, len(block.key), column_sums)
            for part, target, pad in _paired(rows, block, scale_value, how):
                by_row, by_column = _target_sums(part, target, pad, how) if target is not None else ([], [])
                row, column = exponentials(part.logits, pad.small, pad.other, by_column=how.by_column)
                of_rows.add(part.rows, [summed(row, 1), *by_row])
                of_columns.add(part.columns, [summed(column, 0), *by_column] if column is not None else [])
            return of_columns.largest, of_columns.total

        with full_precision(query.device):
            largest, total = how.exchange.lse(columns, visit)
        row, row_mean, row_target = _results(of_rows.largest, of_rows.total)
        column, column_mean, column_target = _results(largest, total)
        ctx.rows, ctx.columns, ctx.how = rows, columns, how
        ctx.save_for_backward(scale_value, row, column, row_target, column_target)
        ctx.dtypes = query.dtype, key.dtype, scale.dtype
        ctx.mark_non_differentiable(row_target, column_target)
        return row, column, row_mean, column_mean, row_target, column_target

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        rows: Queries = ctx.rows
        how: _How = ctx.how
        scale, row_lse, column_lse, row_target, column_target = ctx.saved_tensors
        row_weight, column_weight, row_mean_weight, column_mean_weight, *_ = upstream
        row_lse = finite(row_lse, row_weight)
        row_target = finite(row_target, row_mean_weight)
        d_query = torch.zeros_like(rows.query)

        def visit(block: Columns, lse: Tensor) -> Tensor:
            d_key = torch.zeros_like(block.key)
            for part, target, pad in _paired(rows, block, scale, how, slopes=True):
                here, there = part.rows, part.columns
                column = (lse[there], block.weight[there]) if how.by_column else None
                slope = slope_of(part.logits, (row_lse[here], row_weight[here]), column, pad.small, pad.other)
                if target is not None and how.soft is not None:
                    column = (block.extra[1][there], block.extra[2][there]) if how.soft.both else None
                    row = (row_target[here], row_mean_weight[here])
                    slope.add_(_target_slope(target, row, column, pad, logs=how.soft.logs))
                if pad.inner is not None:
                    slope.mul_(pad.inner)
                d_query[here].addmm_(slope, block.key[there])
                d_key[there].addmm_(slope.T, rows.query[here])
            return d_key

        columns = ctx.columns
        if how.by_column:
            columns, column_lse = replace(columns, weight=column_weight), finite(column_lse, column_weight)
        else:
            column_lse = columns.weight
        if how.soft is not None and how.soft.both:
            of_columns = (finite(column_target, column_mean_weight), column_mean_weight)
            columns = replace(columns, extra=(*columns.extra, *of_columns))
        with full_precision(rows.query.device):
            d_key = how.exchange.gradient(columns, column_lse, visit)
        # Σ G⊙(q·k) needs no tile: it is Σ_i q_i·(G K)_i.
        d_scale = torch.einsum("nd,nd->n", d_query, rows.query).sum()
        query_dtype, key_dtype, scale_dtype = ctx.dtypes
        d_query, d_key = d_query.mul_(scale), d_key.mul_(scale)
        return d_query.to(query_dtype), d_key.to(key_dtype), d_scale.to(scale_dtype), None, None, None


class _Pad(NamedTuple):
    """What goes with a tile, and room for two more."""

    small: bool  #: all logits are (`tiles.small`)
    small_target: bool  #: and all log t
    inner: Tensor | None  #: dl/dx, of a bend
    other: Scratch
    third: Scratch


def _paired(
    rows: Queries, block: Columns, scale: Tensor, how: _How, *, slopes: bool = False
) -> Iterator[tuple[Tile, Tensor | None, _Pad]]:
    """The tiles of the logits, each with that of the soft target if there is any."""
    size = (min(how.tile[0], len(rows.query)), min(how.tile[1], len(block.key)))
    soft, bend, largest = how.soft, how.bend, largest_logit(rows.query, block.key, scale)
    mine = tiles(rows, block, scale, how.tile, own=how.own)
    is_small = small(largest if bend is None else bend.bound(largest))
    pad = _Pad(is_small, False, None, Scratch(rows.query, size), Scratch(rows.query, size))
    if soft is None:
        for part in mine:
            if bend is None:
                yield part, None, pad
            else:
                inner = bend.slope(part.logits, pad.third(part.logits.shape)) if slopes else None
                yield _bent(part, bend), None, pad._replace(inner=inner)
        return
    key, one = block.extra[0], torch.ones_like(scale)
    pad = pad._replace(
        small_target=soft.logs and soft.measure is inner_products and small(largest_logit(soft.query, key, one))
    )
    others = tiles(
        rows._replace(query=soft.query),
        replace(block, key=key),
        one,
        how.tile,
        soft.measure,
        own=how.own,
        nothing=-torch.inf if soft.logs else 0.0,
    )
    for part, other in zip(mine, others, strict=True):
        yield part, other.logits, pad


def _bent(part: Tile, bend: Bend) -> Tile:
    if part.whole:
        return part._replace(logits=bend.value(part.logits))
    out = part.logits == -torch.inf
    return part._replace(logits=bend.value(part.logits).masked_fill_(out, -torch.inf))


def _target_sums(part: Tile, target: Tensor, pad: _Pad, how: _How) -> tuple[list[Lse], list[Lse]]:
    """(reference, Σ t) and (reference, Σ t l) of rows and of columns; overwrites the target."""
    soft = how.soft
    if soft is None:
        raise ValueError("without a soft target")
    if soft.relative:
        gap = torch.sub(part.logits, target, out=pad.third(target.shape))
        gap.masked_fill_(target == -torch.inf, 0.0)
    elif part.whole:
        gap = part.logits
    else:
        # 0 · -inf where a pair takes no part.
        gap = torch.clamp(part.logits, min=torch.finfo(target.dtype).min, out=pad.third(target.shape))
    if soft.logs:
        row, column = exponentials(target, pad.small_target, pad.other, by_column=soft.both)
    else:
        zero = target.new_zeros(())
        row = (zero.expand(len(target)), target)
        column = (zero.expand(target.shape[1]), target) if soft.both else None
    by_row, by_column = [summed(row, 1)], [] if column is None else [summed(column, 0)]
    if column is not None and column[1] is not row[1]:
        column[1].mul_(gap)
    row[1].mul_(gap)
    by_row.append(summed(row, 1))
    if column is not None:
        by_column.append(summed(column, 0))
    return by_row, by_column


def _target_slope(
    target: Tensor, row: tuple[Tensor, Tensor], column: tuple[Tensor, Tensor] | None, pad: _Pad, *, logs: bool
) -> Tensor:
    """w_i t / Σ_c t + v_c t / Σ_i t of (log Σ_c t, w_i) and (log Σ_i t, v_c); overwrites the target."""
    if logs:
        return slope_of(target, row, column, pad.small_target, pad.third)
    of_rows = (row[1] * (-row[0]).exp())[:, None]
    if column is None:
        return target.mul_(of_rows)
    return target.mul_(torch.add(of_rows, column[1] * (-column[0]).exp(), out=pad.third(target.shape)))
