"""One-to-K contrasts of any similarity: what `compose` is for dot products.

B rows of this rank, k columns of a row (its texts, or one for all of them).
"""

from __future__ import annotations

import torch
from torch import Tensor

from training.gather import Columns, Exchange
from training.losses.pair_kernel import Pairs, pair_loss
from training.losses.present import row_numbers
from training.losses.tiles import Queries


def contrast_pairs(
    query: Tensor,
    key: Tensor,
    mask_Bk: Tensor,
    group_B: Tensor,
    pairs: Pairs,
    exchange: Exchange,
    *,
    extra: Tensor | None = None,
    shared: tuple[Tensor, ...] = (),
    share: tuple[float, float] = (0.5, 0.5),
) -> Tensor:
    """A row's columns are its positives, in a softmax over columns and in one over rows (the objective `one_to_k`).

    query: [B, …].  key: [B, k, …].  mask_Bk: bool, the columns that exist.  extra: [B, k, E], given to `pairs.logits`.
    share: weights of both directions; of `pairs.joint`, of the one softmax and 0.
    The mean over rows and that over columns are those of the whole batch (rule R1).
    """
    count_B = mask_Bk.sum(1)
    sums = exchange.total(torch.stack([(count_B > 0).sum(), mask_Bk.sum()]).double()).clamp(min=1.0)
    row_weight = share[0] * (count_B > 0).double() / sums[0]
    column_weight = share[1] * mask_Bk.double() / sums[1]
    if pairs.joint:
        column_weight = row_weight[:, None].expand_as(mask_Bk)
    positive_Bk = mask_Bk / count_B.clamp(min=1)[:, None].double()
    return pair_loss(
        queries(query, count_B > 0, row_weight, group_B, exchange),
        columns(key, mask_Bk, column_weight, group_B, exchange, positive=positive_Bk, extra=extra),
        pairs,
        exchange,
        shared,
    )


def queries(query: Tensor, valid: Tensor, weight: Tensor, group_B: Tensor, exchange: Exchange) -> Queries:
    """The rows of this rank for the kernels: query [n, …], valid [n], weight [n], where n is a multiple of B."""
    each = len(query) // len(group_B)
    return Queries(query, valid, weight.to(query.dtype), _numbers(group_B, each, exchange), _of(group_B, each))


def columns(
    key: Tensor,
    valid_Bk: Tensor,
    weight_Bk: Tensor,
    group_B: Tensor,
    exchange: Exchange,
    *,
    positive: Tensor,
    extra: Tensor | None = None,
) -> Columns:
    """The columns of this rank for the kernels: key [B, k, …]; positive: [B, k], shares of the row's target."""
    each = valid_Bk.shape[1]
    first = positive.flatten()[:, None].to(key.dtype)
    whole = first if extra is None else torch.cat([first, extra.flatten(0, 1).to(key.dtype)], 1)
    return Columns(
        key.flatten(0, 1),
        valid_Bk.flatten(),
        weight_Bk.flatten().to(key.dtype),
        _numbers(group_B, each, exchange),
        _of(group_B, each),
        (whole,),
    )


def _numbers(group_B: Tensor, each: int, exchange: Exchange) -> Tensor:
    """Number over all ranks of the row of each of its `each` entries."""
    return _of(row_numbers(len(group_B), exchange, group_B.device), each)


def _of(values_B: Tensor, each: int) -> Tensor:
    return values_B.repeat_interleave(each)
