"""Softmax over columns and over rows in one pass over tiles of the logits, with a gradient written by hand.

The value is the two cross-entropies without the terms at the targets, which are few and left to plain autograd (see
`compose`):

    V = Σ_i w_i · LSE_c l_ic  +  Σ_c v_c · LSE_i l_ic            l_ic = s · q_i·k_c

    dV/dl_ic = w_i exp(l_ic - row_i) + v_c exp(l_ic - col_c)     row_i, col_c: the log-sum-exps

LSE_i runs over the rows of all ranks that share the columns.  Backward makes each tile again: 8·n·m·D flops in all and
O(n·D + tile) memory, where the logits themselves would take 4·n·m bytes several times over.  The idea is that of
FlashAttention (Dao et al. 2022) and Inf-CLIP (Cheng et al. 2024).

n rows of this rank, m own columns, M columns of all ranks, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from training.gather import Columns, Exchange, Lse
from training.losses.tiles import Queries, tiles, wide
from training.precision import full_precision

#: Differences of log-sum-exps, in nats, up to which one exponential serves rows and columns: exp(±60) is far inside
#: the range of float32, and what is lost is e-27 of the largest term.
_NEAR = 60.0

#: (rows, columns of a block) -> weights [r, c] of a soft target, for the tile at these two slices.
SoftTarget = Callable[[slice, Columns, slice], Tensor]


def softmax_value(
    rows: Queries,
    columns: Columns,
    scale: Tensor,
    *,
    exchange: Exchange,
    tile: tuple[int, int],
    soft: SoftTarget | None = None,
) -> Tensor:
    """V of the module's docstring: this rank's rows and own columns, times the number of ranks.

    The mean over ranks of its gradients with respect to `rows.query`, `columns.key` and `scale` is the gradient of the
    sum over ranks.  With `soft`, minus Σ_ic T_ic l_ic for a target that is not only at a row's own texts.
    """
    value: Tensor = _Softmax.apply(rows.query, columns.key, scale, rows, columns, exchange, tile, soft)
    return value


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        scale: Tensor,
        rows: Queries,
        columns: Columns,
        exchange: Exchange,
        tile: tuple[int, int],
        soft: SoftTarget | None,
    ) -> Tensor:
        rows = rows._replace(query=wide(query.detach()), weight=wide(rows.weight))
        columns = columns.map(Tensor.detach)
        columns = replace(columns, key=wide(columns.key), weight=wide(columns.weight))
        scale_value = wide(scale.detach())
        row_lse = rows.query.new_full((len(query),), -torch.inf)
        at_target = rows.query.new_zeros(())

        def visit(block: Columns) -> Lse:
            nonlocal row_lse, at_target
            largest = block.key.new_full((len(block.key),), -torch.inf)
            total = block.key.new_zeros(len(block.key))
            row_max, row_sum = largest.new_full((len(query),), -torch.inf), largest.new_zeros(len(query))
            for part in tiles(rows, block, scale_value, tile):
                if soft is not None:
                    weights = soft(part.rows, block, part.columns)
                    at_target += (weights * part.logits.masked_fill(weights == 0, 0.0)).sum()
                by_row, by_column = _tile_sums(part.logits)
                _add(row_max[part.rows], row_sum[part.rows], *by_row)
                _add(largest[part.columns], total[part.columns], *by_column)
            row_lse = torch.logaddexp(row_lse, row_max + row_sum.log())
            return largest, total

        with full_precision(query.device):
            largest, total = exchange.lse(columns, visit)
        column_lse = largest + total.log()
        ctx.rows, ctx.columns, ctx.exchange, ctx.tile, ctx.soft = rows, columns, exchange, tile, soft
        ctx.save_for_backward(scale_value, row_lse, column_lse)
        ctx.dtypes = query.dtype, key.dtype, scale.dtype
        mine = _weighted(rows.weight, row_lse) + _weighted(columns.weight, column_lse) - at_target
        return mine * exchange.world

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        rows: Queries = ctx.rows
        scale, row_lse, column_lse = ctx.saved_tensors
        soft: SoftTarget | None = ctx.soft
        row_lse = torch.where(rows.weight == 0, _ref(row_lse), row_lse)
        d_query = torch.zeros_like(rows.query)

        def visit(block: Columns, lse: Tensor) -> Tensor:
            lse = torch.where(block.weight == 0, _ref(lse), lse)
            d_key = torch.zeros_like(block.key)
            for part in tiles(rows, block, scale, ctx.tile):
                here, there = part.rows, part.columns
                slope = _slope(part.logits, row_lse[here], lse[there], rows.weight[here], block.weight[there])
                if soft is not None:
                    slope -= soft(here, block, there)
                d_query[here].addmm_(slope, block.key[there])
                d_key[there].addmm_(slope.T, rows.query[here])
            return d_key

        with full_precision(rows.query.device):
            d_key = ctx.exchange.gradient(ctx.columns, column_lse, visit)
        factor = upstream[0] * ctx.exchange.world
        # Σ G⊙(q·k) needs no tile: it is Σ_i q_i·(G K)_i.
        d_scale = (d_query * rows.query).sum() * factor
        query_dtype, key_dtype, scale_dtype = ctx.dtypes
        d_query, d_key = d_query * (scale * factor), d_key * (scale * factor)
        return d_query.to(query_dtype), d_key.to(key_dtype), d_scale.to(scale_dtype), None, None, None, None, None


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


def _weighted(weight: Tensor, lse: Tensor) -> Tensor:
    return (weight * torch.where(weight == 0, 0.0, lse)).sum()
