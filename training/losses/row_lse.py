"""Log-sum-exps of rows over columns, tile by tile, as values that any function may follow.

    LSE_i = log Σ_c exp(s · q_i·k_c)        dLSE_i/d(q_i·k_c) = s · exp(s · q_i·k_c − LSE_i)

The kernel of `softmax` weighs log-sum-exps by numbers known beforehand; here autograd says what each weighs, so that a
log of a sum of them, or a difference from another one, needs no kernel of its own.  O(n·D + tile) memory.

n rows of this rank, m own columns, D embedding.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from training.gather import Columns, Exchange, Lse
from training.losses.tiles import Queries, tiles, wide
from training.precision import full_precision


class RowLse(NamedTuple):
    """Both [n]."""

    lse: Tensor  #: differentiable; -inf where a row has no column
    columns: Tensor  #: int64, how many there are


def row_lse(rows: Queries, columns: Columns, scale: Tensor, *, exchange: Exchange, tile: tuple[int, int]) -> RowLse:
    """The log-sum-exp of each own row over the columns of all peers that take part (`tiles` says which).

    The gradients at queries, keys and scale are those of all peers' log-sum-exps (rule R1).  A collective call.
    """
    return RowLse(*_RowLse.apply(rows.query, columns.key, scale, rows, columns, exchange, tile))


class _RowLse(torch.autograd.Function):
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
    ) -> tuple[Tensor, Tensor]:
        rows = rows._replace(query=wide(query.detach()))
        columns = columns.map(Tensor.detach)
        columns = replace(columns, key=wide(columns.key))
        scale_value = wide(scale.detach())
        lse = rows.query.new_full((len(query),), -torch.inf)
        count = torch.zeros(len(query), dtype=torch.int64, device=query.device)

        def visit(block: Columns) -> Lse:
            for part in tiles(rows, block, scale_value, tile):
                lse[part.rows] = torch.logaddexp(lse[part.rows], part.logits.logsumexp(1))
                count[part.rows] += (part.logits > -torch.inf).sum(1)
            # Of the columns nothing is asked.
            nothing = block.key.new_zeros(len(block.key))
            return nothing, nothing.clone()

        with full_precision(query.device):
            exchange.lse(columns, visit)
        ctx.rows, ctx.columns, ctx.exchange, ctx.tile = rows, columns, exchange, tile
        ctx.save_for_backward(scale_value, lse)
        ctx.dtypes = query.dtype, key.dtype, scale.dtype
        ctx.mark_non_differentiable(count)
        return lse.clone(), count

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        rows: Queries = ctx.rows
        scale, lse = ctx.saved_tensors
        empty = torch.isinf(lse)
        lse, weight = torch.where(empty, 0.0, lse), torch.where(empty, 0.0, upstream[0])
        d_query = torch.zeros_like(rows.query)

        def visit(block: Columns, _: Tensor) -> Tensor:
            d_key = torch.zeros_like(block.key)
            for part in tiles(rows, block, scale, ctx.tile):
                here, there = part.rows, part.columns
                slope = part.logits.sub_(lse[here, None]).exp_().mul_(weight[here, None])
                d_query[here].addmm_(slope, block.key[there])
                d_key[there].addmm_(slope.T, rows.query[here])
            return d_key

        with full_precision(rows.query.device):
            d_key = ctx.exchange.gradient(ctx.columns, ctx.columns.weight, visit)
        # Σ G⊙(q·k) needs no tile: it is Σ_i q_i·(G K)_i.
        d_scale = (d_query * rows.query).sum()
        query_dtype, key_dtype, scale_dtype = ctx.dtypes
        d_query, d_key = d_query * scale, d_key * scale
        return d_query.to(query_dtype), d_key.to(key_dtype), d_scale.to(scale_dtype), None, None, None, None
