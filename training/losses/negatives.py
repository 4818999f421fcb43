"""Each row against its negatives, in tiles: for losses of one direction, whose positive is not among the columns.

    LSE_i = log Σ_c exp(s q_i·k_c)   over the columns c that are no row's own, of another group, and valid

A cross-entropy with one positive logit p_i is then softplus(LSE_i - p_i) = -log(exp p_i / (exp p_i + exp LSE_i)).
The gradient is written by hand: tiles are made again backwards, so O((n + M)·D + tile) memory and 8·n·M·D flops.

n rows of this rank, M columns of all peers, D embedding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from torch import Tensor

from training.gather import Exchange
from training.losses.tiles import wide
from training.precision import full_precision


class Side(NamedTuple):
    """Vectors, and which of them are no negatives of each other: those of one row, and those of one group."""

    vector: Tensor  #: [n, D] floating
    valid: Tensor  #: [n] bool
    row: Tensor  #: [n] int64, what the vector belongs to
    group: Tensor  #: [n] int64, rows of one group are no negatives of each other; -1 for none

    def of_peers(self, exchange: Exchange) -> Side:
        """Those of all peers, in the order of ranks.  A collective call; its gradient is that of `contrasted`."""
        return Side(*(exchange.contrasted(each) for each in self))

    def joined(self, other: Side) -> Side:
        """These, then the others."""
        return Side(*(torch.cat(pair) for pair in zip(self, other, strict=True)))


def negatives_lse(rows: Side, columns: Side, scale: Tensor, tile: tuple[int, int]) -> Tensor:
    """LSE of the module's docstring [n], -inf where a row has no negative; differentiable in vectors and scale."""
    found: Tensor = _Lse.apply(rows.vector, columns.vector, scale, rows, columns, tile)
    return found


def cross_entropy(rows: Side, columns: Side, positive: Tensor, scale: Tensor, tile: tuple[int, int]) -> Tensor:
    """Of each row's positive logit against its negatives; positive: [n] or [n, A], each against the same -> same."""
    lse = negatives_lse(rows, columns, scale, tile)
    return F.softplus(lse.reshape(len(lse), *([1] * (positive.ndim - 1))) - positive)


class _Lse(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, scale: Tensor, rows: Side, columns: Side, tile: tuple[int, int]
    ) -> Tensor:
        # Detached: ctx keeps no graph alive.
        ctx.rows, ctx.columns = rows._replace(vector=rows.vector.detach()), columns._replace(vector=key.detach())
        ctx.tile, ctx.dtypes = tile, (query.dtype, key.dtype, scale.dtype)
        query, key, factor = wide(query.detach()), wide(key.detach()), wide(scale.detach())
        lse = query.new_full((len(query),), -torch.inf)
        with full_precision(query.device):
            for logits, here, _ in _tiles(query * factor, key, rows, columns, tile):
                lse[here] = torch.logaddexp(lse[here], logits.logsumexp(1))
        ctx.save_for_backward(query, key, factor, lse)
        return lse

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        query, key, factor, lse = ctx.saved_tensors
        reference = torch.where(torch.isinf(lse), 0.0, lse)
        d_query, d_key = torch.zeros_like(query), torch.zeros_like(key) if ctx.needs_input_grad[1] else None
        with full_precision(query.device):
            for logits, here, there in _tiles(query * factor, key, ctx.rows, ctx.columns, ctx.tile):
                slope = logits.sub_(reference[here, None]).exp_().mul_(upstream[0][here, None])
                d_query[here].addmm_(slope, key[there])
                if d_key is not None:
                    d_key[there].addmm_(slope.T, query[here])
        # Σ slope⊙(q·k) needs no tile: it is Σ_i q_i·(slope K)_i.
        d_scale = (d_query * query).sum()
        of_query, of_key, of_scale = ctx.dtypes
        d_key = None if d_key is None else (d_key * factor).to(of_key)
        return (d_query * factor).to(of_query), d_key, d_scale.to(of_scale), None, None, None


def _tiles(
    scaled: Tensor, key: Tensor, rows: Side, columns: Side, size: tuple[int, int]
) -> Iterator[tuple[Tensor, slice, slice]]:
    """Logits with -inf where a column is no negative of the row, and where they lie; the caller's to overwrite."""
    for first in range(0, len(key), size[1]):
        there = slice(first, first + size[1])
        for begin in range(0, len(scaled), size[0]):
            here = slice(begin, begin + size[0])
            group = rows.group[here, None]
            out = (group == columns.group[there]) & (group >= 0)
            out |= (rows.row[here, None] == columns.row[there]) | ~columns.valid[there]
            yield (scaled[here] @ key[there].T).masked_fill_(out, -torch.inf), here, there
