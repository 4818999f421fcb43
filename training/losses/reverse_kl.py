"""The divergence of a softmax from a target with several positives, both ways, and its gradient written by hand.

    R_i = Σ_c p_ic (log p_ic - log(q_ic + ε))   p_ic = softmax_c l_ic,  q_ic = 1/n_i at the n_i positives of i, else 0
        = E_i - LSE_c l_ic                      E_i = Σ_c p_ic e_ic,  e_ic = l_ic - log(q_ic + ε)

    dR_i/dl_ic = p_ic (e_ic - E_i)

and the same of columns over rows.  Forward takes two passes over the tiles, for the log-sum-exps and for E: with
backward 10·n·M·D flops in all, O(n·D + tile) memory.

n rows of this rank, m own columns, M columns of all ranks, D embedding.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from training.gather import Columns, Exchange, Lse
from training.losses.compose import sides, without_what_is_missing
from training.losses.loss_inputs import LossInputs
from training.losses.softmax import finite, log_sums
from training.losses.tiles import Queries, tiles, wide
from training.precision import full_precision


def reverse_kl(inputs: LossInputs, exchange: Exchange, *, tile: tuple[int, int], epsilon: float) -> Tensor:
    """Mean of R over images plus that over texts, of this rank's rows; the mean over ranks is the batch's (rule R1).

    Positive are the texts and images of one row or one group.  A collective call where the mode is not local.
    """
    with full_precision(inputs.image_BD.device):
        inputs, mask_BK = without_what_is_missing(inputs), inputs.text_mask_BK
        rows, columns = sides(inputs, slice(None), mask_BK, exchange)
        count = exchange.total(torch.stack([rows.valid.sum(), mask_BK.sum()])).clamp(min=1)
        # Groups exclude nothing here: they are labels.
        label = torch.where(rows.group >= 0, rows.group, -2 - rows.row)
        none = torch.full_like(rows.group, -1)
        rows = rows._replace(weight=rows.valid.to(rows.weight) / count[0], group=none)
        slots = mask_BK.shape[1]
        columns = replace(
            columns,
            weight=columns.valid.to(columns.weight) / count[1],
            group=none.repeat_interleave(slots),
            extra=(label.repeat_interleave(slots),),
        )
        how = _How(exchange, tile, epsilon)
        value: Tensor = _ReverseKl.apply(rows.query, columns.key, inputs.scale, rows, label, columns, how)
        return value


class _How(NamedTuple):
    exchange: Exchange
    tile: tuple[int, int]
    epsilon: float


class _Known(NamedTuple):
    """What the gradient needs of rows: label, log-sum-exp, log(1/n + ε) and E, [n] each."""

    label: Tensor
    lse: Tensor
    target: Tensor
    mean: Tensor


class _ReverseKl(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        scale: Tensor,
        rows: Queries,
        label: Tensor,
        columns: Columns,
        how: _How,
    ) -> Tensor:
        rows = rows._replace(query=wide(query.detach()))
        columns = columns.map(Tensor.detach)
        columns = replace(columns, key=wide(columns.key))
        scale_value = wide(scale.detach())
        row_lse, column_lse, _ = log_sums(rows, columns, scale_value, exchange=how.exchange, tile=how.tile)
        row_count, column_count = _positives(rows, label, columns, how.exchange)
        known = _Known(
            label,
            finite(row_lse, rows.weight),
            (1 / row_count.clamp(min=1) + how.epsilon).log(),
            torch.zeros_like(row_lse),
        )
        of_column = (finite(column_lse, columns.weight), (1 / column_count.clamp(min=1) + how.epsilon).log())
        columns = replace(columns, extra=(*columns.extra, *of_column))

        def visit(block: Columns) -> Lse:
            mean = torch.zeros_like(block.weight)
            for part in tiles(rows, block, scale_value, how.tile):
                here, there = part.rows, part.columns
                for_row, for_column = _shares(part.logits, here, there, known, block, how.epsilon)
                known.mean[here] += (for_row[0] * for_row[1]).sum(1)
                mean[there] += (for_column[0] * for_column[1]).sum(0)
            return torch.zeros_like(mean), mean

        column_mean = how.exchange.lse(columns, visit)[1]
        ctx.rows, ctx.columns, ctx.how, ctx.known = rows, columns, how, known
        ctx.save_for_backward(scale_value, column_mean)
        ctx.dtypes = query.dtype, key.dtype, scale.dtype
        mine = (rows.weight * (known.mean - known.lse)).sum() + (columns.weight * (column_mean - of_column[0])).sum()
        return mine * how.exchange.world

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        rows: Queries = ctx.rows
        known: _Known = ctx.known
        how: _How = ctx.how
        scale, column_mean = ctx.saved_tensors
        d_query = torch.zeros_like(rows.query)

        def visit(block: Columns, mean: Tensor) -> Tensor:
            d_key = torch.zeros_like(block.key)
            for part in tiles(rows, block, scale, how.tile):
                here, there = part.rows, part.columns
                for_row, for_column = _shares(part.logits, here, there, known, block, how.epsilon)
                slope = for_row[1].sub_(known.mean[here, None]).mul_(for_row[0]).mul_(rows.weight[here, None])
                slope += for_column[1].sub_(mean[there]).mul_(for_column[0]).mul_(block.weight[there])
                d_query[here].addmm_(slope, block.key[there])
                d_key[there].addmm_(slope.T, rows.query[here])
            return d_key

        with full_precision(rows.query.device):
            d_key = how.exchange.gradient(ctx.columns, column_mean, visit)
        factor = upstream[0] * how.exchange.world
        d_scale = (d_query * rows.query).sum() * factor
        query_dtype, key_dtype, scale_dtype = ctx.dtypes
        d_query, d_key = d_query * (scale * factor), d_key * (scale * factor)
        return d_query.to(query_dtype), d_key.to(key_dtype), d_scale.to(scale_dtype), None, None, None, None


def _shares(
    logits: Tensor, here: slice, there: slice, known: _Known, block: Columns, epsilon: float
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(p, e) of rows and of columns at a tile; e is 0 where a pair takes no part."""
    label, lse, target = (extra[there] for extra in block.extra)
    positive = known.label[here, None] == label
    by_row, by_column = (logits - known.lse[here, None]).exp_(), (logits - lse).exp_()
    logits = logits.masked_fill_(logits == -torch.inf, 0.0)
    floor = logits.new_tensor(epsilon).log()
    return (
        (by_row, logits - torch.where(positive, known.target[here, None], floor)),
        (by_column, logits - torch.where(positive, target, floor)),
    )


def _positives(rows: Queries, label: Tensor, columns: Columns, exchange: Exchange) -> tuple[Tensor, Tensor]:
    """How many positives each row has among the columns, and each own column among the rows."""
    of_row = rows.query.new_zeros(len(label))
    slim = replace(columns, key=columns.key[:, :1])

    def visit(block: Columns) -> Lse:
        of_row.add_(_how_often(label, block.extra[0][block.valid]))
        of_column = _how_often(block.extra[0], label[rows.valid]).to(of_row)
        return torch.zeros_like(of_column), of_column

    return of_row, exchange.lse(slim, visit)[1]


def _how_often(labels: Tensor, among: Tensor) -> Tensor:
    ordered = among.sort().values
    return torch.searchsorted(ordered, labels, right=True) - torch.searchsorted(ordered, labels)
