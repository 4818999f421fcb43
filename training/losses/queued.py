"""A contrast with embeddings of a teacher, in the batch and in queues, and with the teacher's softmax as target.

    (1 - α) own + α softmax(s x'_i·k)       over keys k: those of the batch and those of the queue, all the teacher's

The queue is on every rank, so it goes through the kernel as standing columns; in memory there is never more of the
logits than a tile.

B rows of this rank, K text slots, Q entries of a queue, D embedding; N keys or queries, whichever side is meant.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from training.gather import Columns, Exchange
from training.losses.softmax import SoftTarget, finite, log_sums, weighted
from training.losses.tiles import Queries, inner_products, wide
from training.precision import full_precision


class Side(NamedTuple):
    """The images of a batch, or its texts, one after another; every rank has as many."""

    student_ND: Tensor
    teacher_ND: Tensor  #: without gradient
    valid_N: Tensor  #: bool
    row_N: Tensor  #: int64, number of the row over all ranks
    label_N: Tensor  #: int64, entries of one label and different rows are no negatives of each other; -1 for none


class Queue(NamedTuple):
    """Embeddings of earlier steps, the same on all ranks; zeros where there is none yet."""

    key_QD: Tensor
    label_Q: Tensor


def momentum_loss(
    queries: Side,
    keys: Side,
    at_own_N: Tensor,
    queue: Queue,
    scale: Tensor,
    alpha: float,
    exchange: Exchange,
    tile: tuple[int, int],
) -> Tensor:
    """Mean over valid queries of all ranks; this rank's part, whose mean over ranks is the batch's (rule R1).

    at_own_N: mean of a query's logits with its own keys.  A collective call where the mode is not local.
    """
    with full_precision(scale.device):
        dtype, scale = wide(queries.student_ND).dtype, wide(scale)
        count = exchange.total(queries.valid_N.sum()).clamp(min=1)
        weight = queries.valid_N.to(dtype) / count
        rows = Queries(queries.student_ND, queries.valid_N, weight, queries.row_N, queries.label_N)
        columns = _columns(wide(keys.teacher_ND), keys.valid_N, keys.row_N, keys.label_N)
        key_QD = queue.key_QD.to(dtype)
        nobody = torch.full_like(queue.label_Q, -1)
        standing = _columns(key_QD, (key_QD != 0).any(1), nobody, queue.label_Q)
        target = None
        if alpha > 0:
            target = _target(queries, rows, columns, standing, scale.detach(), alpha, exchange, tile)
        found = log_sums(rows, columns, scale, exchange=exchange, tile=tile, soft=target, standing=standing)
        at_own = (weight * at_own_N).sum()
        return exchange.world * (weighted(weight, found.row) - (1 - alpha) * at_own - found.at_soft)


def _columns(key_ND: Tensor, valid_N: Tensor, row_N: Tensor, label_N: Tensor) -> Columns:
    none = key_ND.new_zeros(len(key_ND))
    return Columns(key_ND, valid_N, none, row_N, label_N, (key_ND,))


@torch.no_grad()
def _target(
    queries: Side,
    rows: Queries,
    columns: Columns,
    standing: Columns,
    scale: Tensor,
    alpha: float,
    exchange: Exchange,
    tile: tuple[int, int],
) -> SoftTarget:
    taught = rows._replace(query=wide(queries.teacher_ND) * scale)
    slim, still = replace(columns, extra=()), replace(standing, extra=())
    lse = log_sums(taught, slim, scale.new_ones(()), exchange=exchange, tile=tile, standing=still).row
    return SoftTarget(taught.query, inner_products, True, finite(lse, rows.weight), alpha * rows.weight, False)
