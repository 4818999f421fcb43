"""Exponentials of a tile of logits, for sums over its rows and its columns, with one exponential where one will do.

r rows and c columns of a tile; k rows or columns of all tiles.
"""

from __future__ import annotations

import torch
from torch import Tensor

from training.gather import Lse
from training.losses.tiles import Scratch

#: Differences of log-sum-exps, in nats, up to which one exponential serves rows and columns: exp(±60) is far inside
#: the range of float32, and what is lost is e-27 of the largest term.
_NEAR = 60.0


class Sums:
    """S running sums of exp(l - reference) each, or of something times that, for k rows or columns: [k, S]."""

    def __init__(self, like: Tensor, count: int, sums: int) -> None:
        self.largest = like.new_full((count, sums), -torch.inf)
        self.total = like.new_zeros(count, sums)

    def add(self, at: slice, found: list[Lse]) -> None:
        """Add (reference, sum) pairs [k'] at a slice."""
        if not found:
            return
        reference, sums = (torch.stack(parts, dim=1) for parts in zip(*found, strict=True))
        largest, total = self.largest[at], self.total[at]
        common = torch.maximum(largest, reference)
        ref = reference_of(common)
        total.mul_((largest - ref).exp_()).addcmul_(sums, (reference - ref).exp_())
        largest.copy_(common)


def exponentials(logits: Tensor, is_small: bool, spare: Scratch, *, by_column: bool) -> tuple[Lse, Lse | None]:
    """References, and exp(l - reference) [r, c], for rows and for columns; overwrites the tile."""
    if is_small:
        zero = logits.new_zeros(())
        logits.exp_()
        return (zero.expand(len(logits)), logits), (zero.expand(logits.shape[1]), logits) if by_column else None
    of_rows = logits.amax(1)
    if not by_column:
        return (of_rows, logits.sub_(reference_of(of_rows)[:, None]).exp_()), None
    of_columns = logits.amax(0)
    if logits.device.type == "cpu" and _spread(of_rows, of_columns) < _NEAR:
        top = of_rows.max()
        logits.sub_(top).exp_()
        return (top.expand(len(of_rows)), logits), (top.expand(len(of_columns)), logits)
    # On a GPU the question itself would cost more than the second exponential: it waits for the device.
    other = torch.sub(logits, reference_of(of_columns), out=spare(logits.shape)).exp_()
    return (of_rows, logits.sub_(reference_of(of_rows)[:, None]).exp_()), (of_columns, other)


def summed(terms: Lse, over: int) -> Lse:
    """(reference, sum over a dimension)."""
    return terms[0], terms[1].sum(over)


def _spread(by_row: Tensor, by_column: Tensor) -> float:
    """How far the largest logits of rows and columns lie apart; inf where one has none at all."""
    return float(torch.maximum(by_row.max(), by_column.max()) - torch.minimum(by_row.min(), by_column.min()))


def slope_of(
    logits: Tensor, row: tuple[Tensor, Tensor], column: tuple[Tensor, Tensor] | None, is_small: bool, spare: Scratch
) -> Tensor:
    """w_i exp(l - row_i) + v_c exp(l - col_c) of (row_i, w_i) and (col_c, v_c); overwrites the tile."""
    row_lse, row_weight = row
    if column is None:
        if is_small:
            return logits.exp_().mul_((row_weight * (-row_lse).exp())[:, None])
        return logits.sub_(row_lse[:, None]).exp_().mul_(row_weight[:, None])
    column_lse, column_weight = column
    if is_small:
        of_rows, of_columns = row_weight * (-row_lse).exp(), column_weight * (-column_lse).exp()
        return logits.exp_().mul_(torch.add(of_rows[:, None], of_columns, out=spare(logits.shape)))
    if logits.device.type == "cpu" and _spread(row_lse, column_lse) < _NEAR:
        middle = row_lse.mean()
        factors = (row_lse - middle).exp(), column_weight * (middle - column_lse).exp()
        logits.sub_(row_lse[:, None]).exp_()
        return logits.mul_(torch.addr(row_weight[:, None], *factors, out=spare(logits.shape)))
    by_column = torch.sub(logits, column_lse, out=spare(logits.shape)).exp_().mul_(column_weight)
    return by_column.addcmul_(logits.sub_(row_lse[:, None]).exp_(), row_weight[:, None])


def finite(lse: Tensor, weight: Tensor) -> Tensor:
    """Log-sum-exps with 0 for those without a term, whose weight must be 0."""
    return torch.where(weight == 0, reference_of(lse), lse)


def reference_of(values: Tensor) -> Tensor:
    """To subtract from logits: 0 where there is none, so that exp(-inf - 0) is 0."""
    return torch.where(torch.isinf(values), 0.0, values)
