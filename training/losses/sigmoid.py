"""The sigmoid loss in one pass over tiles of the logits; value and gradient come from the same pass.

    V = Σ_ic w_i softplus(x_ic),   x_ic = s · q_i·k_c + b,   dV/dx_ic = w_i σ(x_ic)

over all pairs that take part.  A positive pair costs softplus(-x) = softplus(x) - x, and the -x is left to plain
autograd, as there are few (see `compose`).  6·n·M·D flops, O(n·D + tile) memory.

n rows of this rank, M columns of all ranks, D embedding.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from torch import Tensor

from training.gather import Columns, Exchange
from training.losses.tiles import Queries, tiles, wide
from training.precision import full_precision


def sigmoid_value(
    rows: Queries, columns: Columns, scale: Tensor, bias: Tensor, *, exchange: Exchange, tile: tuple[int, int]
) -> Tensor:
    """V of the module's docstring over this rank's rows and all columns, times the number of ranks.

    The mean over ranks of its gradients is the gradient of the sum over ranks.
    """
    value: Tensor = _Sigmoid.apply(rows.query, columns.key, scale, bias, rows, columns, exchange, tile)
    return value


class _Sigmoid(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        scale: Tensor,
        bias: Tensor,
        rows: Queries,
        columns: Columns,
        exchange: Exchange,
        tile: tuple[int, int],
    ) -> Tensor:
        rows = rows._replace(query=wide(query.detach()), weight=wide(rows.weight))
        columns = columns.map(Tensor.detach)
        columns = replace(columns, key=wide(columns.key))
        scale_value, bias_value = wide(scale.detach()), wide(bias.detach())
        value, d_bias = rows.query.new_zeros(()), rows.query.new_zeros(())
        d_query = torch.zeros_like(rows.query)

        def visit(block: Columns, _: Tensor) -> Tensor:
            d_key = torch.zeros_like(block.key)
            for part in tiles(rows, block, scale_value, tile):
                weight = rows.weight[part.rows]
                decision = part.logits.add_(bias_value)
                value.add_((F.softplus(decision).sum(1) * weight).sum())
                slope = decision.sigmoid_().mul_(weight[:, None])
                d_bias.add_(slope.sum())
                d_query[part.rows].addmm_(slope, block.key[part.columns])
                d_key[part.columns].addmm_(slope.T, rows.query[part.rows])
            return d_key

        with full_precision(query.device):
            d_key = exchange.gradient(columns, columns.weight, visit)
        d_scale = (d_query * rows.query).sum()
        ctx.save_for_backward(d_query * scale_value, d_key * scale_value, d_scale, d_bias)
        ctx.world = exchange.world
        ctx.dtypes = query.dtype, key.dtype, scale.dtype, bias.dtype
        return value * exchange.world

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        factor = upstream[0] * ctx.world
        found = [(d * factor).to(dtype) for d, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)]
        return (*found, None, None, None, None)
