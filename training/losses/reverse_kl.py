"""The divergence of a softmax from a target with several positives, both ways, and its gradient written by hand.

    R_i = Σ_c p_ic (log p_ic - log(q_ic + ε))   p_ic = softmax_c l_ic,  q_ic = 1/n_i at the n_i positives of i, else 0
        = E_i - LSE_c l_ic                      E_i = Σ_c p_ic e_ic,  e_ic = l_ic - log(q_ic + ε)

    dR_i/dl_ic = p_ic (e_ic - E_i)

and the same of columns over rows.  With P_i, the share of p_i at the positives, forward takes one pass over the tiles:

    E_i = Σ_c p_ic l_ic - (1 - P_i) log ε - P_i log(1/n_i + ε)

With backward 8·n·M·D flops in all, O(n·D + tile) memory.

n rows of this rank, m own columns, M columns of all ranks, D embedding.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from training.gather import Columns, Exchange, Lse
from training.losses.compose import sides, without_what_is_missing
from training.losses.exponentials import Sums, exponentials, finite, summed
from training.losses.loss_inputs import LossInputs
from training.losses.row_lse import how_often
from training.losses.tiles import Queries, Scratch, Tile, largest_logit, small, tiles, wide
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


class _Side(NamedTuple):
    """What is known of rows, or of columns, [k] each."""

    lse: Tensor
    #: What e is less than l, times -1: -log ε where it is no positive, and what more is subtracted where it is one.
    floor: Tensor
    step: Tensor
    mean: Tensor  #: E
    weight: Tensor

    def at(self, here: slice) -> _Side:
        """Some of them."""
        return _Side(*(values[here] for values in self))


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
        of_rows = Sums(scale_value, len(query), 3)

        def visit(block: Columns) -> Lse:
            of_columns = Sums(scale_value, len(block.key), 3)
            is_small, pads = small(largest_logit(rows.query, block.key, scale_value)), _pads(rows, block, how)
            for part in tiles(rows, block, scale_value, how.tile):
                hit, positive = _positives_of(label[part.rows], block.extra[0][part.columns])
                for_rows, for_columns = _tile_sums(part, hit, positive, is_small, pads)
                of_rows.add(part.rows, for_rows)
                of_columns.add(part.columns, for_columns)
            return of_columns.largest, of_columns.total

        counts = _positives(rows, label, columns, how.exchange)
        with full_precision(query.device):
            column_sums = how.exchange.lse(columns, visit)
        of_rows_known = _known((of_rows.largest, of_rows.total), counts[0], rows.weight, how.epsilon)
        of_columns_known = _known(column_sums, counts[1], columns.weight, how.epsilon)
        columns = replace(columns, extra=(*columns.extra, *of_columns_known))
        ctx.rows, ctx.label, ctx.columns, ctx.how, ctx.known = rows, label, columns, how, of_rows_known
        ctx.save_for_backward(scale_value)
        ctx.dtypes = query.dtype, key.dtype, scale.dtype
        mine = [(side.weight * (side.mean - side.lse)).sum() for side in (of_rows_known, of_columns_known)]
        return (mine[0] + mine[1]) * how.exchange.world

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        rows: Queries = ctx.rows
        how: _How = ctx.how
        (scale,) = ctx.saved_tensors
        d_query = torch.zeros_like(rows.query)

        def visit(block: Columns, _: Tensor) -> Tensor:
            d_key = torch.zeros_like(block.key)
            label, known = block.extra[0], _Side(*block.extra[1:])
            pads = _pads(rows, block, how)
            for part in tiles(rows, block, scale, how.tile):
                here, there = part.rows, part.columns
                hit, positive = _positives_of(ctx.label[here], label[there])
                slope = _slope(part, ctx.known.at(here), known.at(there), hit, positive, pads)
                d_query[here].addmm_(slope, block.key[there])
                d_key[there].addmm_(slope.T, rows.query[here])
            return d_key

        with full_precision(rows.query.device):
            d_key = how.exchange.gradient(ctx.columns, ctx.columns.weight, visit)
        factor = upstream[0] * how.exchange.world
        d_scale = torch.einsum("nd,nd->n", d_query, rows.query).sum() * factor
        query_dtype, key_dtype, scale_dtype = ctx.dtypes
        d_query, d_key = d_query.mul_(scale * factor), d_key.mul_(scale * factor)
        return d_query.to(query_dtype), d_key.to(key_dtype), d_scale.to(scale_dtype), None, None, None, None


def _pads(rows: Queries, block: Columns, how: _How) -> list[Scratch]:
    """Room for three more tiles."""
    size = (min(how.tile[0], len(rows.query)), min(how.tile[1], len(block.key)))
    return [Scratch(rows.query, size) for _ in range(3)]


def _tile_sums(
    part: Tile, hit: Tensor, positive: Tensor, is_small: bool, pads: list[Scratch]
) -> tuple[list[Lse], list[Lse]]:
    """(reference, sum) of exp l, of that at the positives, and of l exp l, for rows and for columns; overwrites."""
    logits = pads[1](part.logits.shape).copy_(part.logits)
    if not part.whole:
        logits.masked_fill_(logits == -torch.inf, 0.0)
    row, column = exponentials(part.logits, is_small, pads[0], by_column=True)
    if column is None:
        raise ValueError("columns were asked for")
    at_row = (row[1][:, hit] * positive).sum(1)
    at_column = torch.zeros_like(logits[0]).index_copy_(0, hit, (column[1][:, hit] * positive).sum(0))
    for_rows, for_columns = [summed(row, 1), (row[0], at_row)], [summed(column, 0), (column[0], at_column)]
    if column[1] is not row[1]:
        column[1].mul_(logits)
    row[1].mul_(logits)
    return [*for_rows, summed(row, 1)], [*for_columns, summed(column, 0)]


def _known(sums: Lse, count: Tensor, weight: Tensor, epsilon: float) -> _Side:
    """Of Σ exp l, that over the positives, and Σ l exp l, as (references, sums) [k, 3]."""
    largest, total = sums
    lse = finite(largest[:, 0] + total[:, 0].log(), weight)
    some = total[:, 0] > 0
    at_positives, mean = (
        torch.where(some, part / total[:, 0].where(some, torch.ones_like(part)), 0.0) for part in total[:, 1:].unbind(1)
    )
    floor = torch.full_like(lse, epsilon).log()
    step = (1 / count.clamp(min=1) + epsilon).log() - floor
    return _Side(lse, -floor, step, mean - floor - at_positives * step, weight)


def _slope(part: Tile, row: _Side, column: _Side, hit: Tensor, positive: Tensor, pads: list[Scratch]) -> Tensor:
    """dV/dl: the sum over both sides of weight · p · (l + floor - [positive] step - mean); overwrites the tile."""
    logits = part.logits
    by_row, by_column, both = (pad(logits.shape) for pad in pads)
    torch.sub(logits, row.lse[:, None], out=by_row).exp_().mul_(row.weight[:, None])
    torch.sub(logits, column.lse, out=by_column).exp_().mul_(column.weight)
    if not part.whole:
        logits.masked_fill_(logits == -torch.inf, 0.0)
    at_positives = positive * (by_row[:, hit] * row.step[:, None] + by_column[:, hit] * column.step[hit])
    slope = logits.mul_(torch.add(by_row, by_column, out=both))
    slope.addcmul_(by_row, (row.floor - row.mean)[:, None]).addcmul_(by_column, column.floor - column.mean)
    slope[:, hit] -= at_positives
    return slope


def _positives_of(row_label: Tensor, column_label: Tensor) -> tuple[Tensor, Tensor]:
    """Columns of a tile with the label of any of its rows [h], and whether it is a row's own, [r, h] of 0 and 1."""
    hit = torch.isin(column_label, row_label).nonzero()[:, 0]
    return hit, row_label[:, None] == column_label[hit]


def _positives(rows: Queries, label: Tensor, columns: Columns, exchange: Exchange) -> tuple[Tensor, Tensor]:
    """How many positives each row has among the columns, and each own column among the rows."""
    of_row = rows.query.new_zeros(len(label))
    slim = replace(columns, key=columns.key[:, :1])

    def visit(block: Columns) -> Lse:
        of_row.add_(how_often(label, block.extra[0][block.valid]))
        of_column = how_often(block.extra[0], label[rows.valid]).to(of_row)
        return torch.zeros_like(of_column), of_column

    return of_row, exchange.lse(slim, visit)[1]
