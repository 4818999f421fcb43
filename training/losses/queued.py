"""A contrast with embeddings of a teacher, in the batch and in queues, and with the teacher's softmax as target.

    (1 - α) own + α softmax(s x'_i·k)       over keys k: those of the batch and those of the queue, all the teacher's

The keys do not learn, so one pass is enough: with p the softmax of a row's logits,

    d LSE_c(s x·k_c) / dx = s Σ_c p_c k_c      Σ_c p'_c s x·k_c = s x·Σ_c p'_c k_c

and the mean keys Σ_c p_c k_c of student and teacher are kept as they come, as FlashAttention keeps its output (Dao et
al. 2022).  8·n·(M + Q)·D flops in all, 4·n·(M + Q)·D where α is 0; in memory there is never more of the logits than a
tile.

B rows of this rank, K text slots, Q entries of a queue, D embedding; N keys or queries, whichever side is meant, M keys
of all ranks.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from training.gather import Columns, Exchange, Lse
from training.losses.exponentials import finite, reference_of
from training.losses.softmax import weighted
from training.losses.tiles import Queries, largest_logit, small, tiles, wide
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
        student_ND, scale = wide(queries.student_ND), wide(scale)
        count = exchange.total(queries.valid_N.sum()).clamp(min=1)
        weight = queries.valid_N.to(student_ND.dtype) / count

        def attended(query_ND: Tensor) -> tuple[Tensor, Tensor]:
            rows = Queries(query_ND.detach(), queries.valid_N, weight, queries.row_N, queries.label_N)
            return _attended(rows, keys, queue, scale, exchange, tile)

        lse, mean_ND = attended(student_ND)
        # The value of the log-sum-exp, and the gradient that the mean key gives.
        at_mean = scale * torch.einsum("nd,nd->n", student_ND, mean_ND)
        row = finite(lse, weight) + (at_mean - at_mean.detach())
        value = weighted(weight, row) - (1 - alpha) * (weight * at_own_N).sum()
        if alpha > 0:
            mean_ND = attended(wide(queries.teacher_ND))[1]
            value = value - alpha * scale * (weight * torch.einsum("nd,nd->n", student_ND, mean_ND)).sum()
        return exchange.world * value


@torch.no_grad()
def _attended(
    rows: Queries, keys: Side, queue: Queue, scale: Tensor, exchange: Exchange, tile: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Log-sum-exps [N] over the teacher's keys, and the softmax's mean key [N, D]; -inf and zeros without any."""
    query = rows.query
    largest, total = query.new_full((len(query),), -torch.inf), query.new_zeros(len(query))
    mean = torch.zeros_like(query)
    plain = True  # no reference has been subtracted yet

    def visit(block: Columns) -> Lse:
        nonlocal plain
        plain = plain and small(largest_logit(query, block.key, scale))
        for part in tiles(rows, block, scale, tile):
            here = part.rows
            if plain:
                terms, largest[here] = part.logits.exp_(), 0.0
            else:
                reference = torch.maximum(largest[here], part.logits.amax(1))
                shift = (largest[here] - reference_of(reference)).exp_()
                total[here] *= shift
                mean[here] *= shift[:, None]
                largest[here] = reference
                terms = part.logits.sub_(reference_of(reference)[:, None]).exp_()
            total[here] += terms.sum(1)
            mean[here].addmm_(terms, block.key[part.columns])
        # Of the columns nothing is asked.
        nothing = block.key.new_zeros(len(block.key))
        return nothing, nothing.clone()

    exchange.lse(_columns(wide(keys.teacher_ND), keys.valid_N, keys.row_N, keys.label_N), visit)
    queued = queue.key_QD.to(query.dtype)
    if len(queued):
        there = torch.linalg.vector_norm(queued, dim=1) > 0
        visit(_columns(queued, there, torch.full_like(queue.label_Q, -1), queue.label_Q))
    lse = torch.where(total > 0, largest + total.log(), -torch.inf)
    return lse, mean.div_(total.where(total > 0, torch.ones_like(total))[:, None])


def _columns(key_ND: Tensor, valid_N: Tensor, row_N: Tensor, label_N: Tensor) -> Columns:
    return Columns(key_ND, valid_N, key_ND.new_zeros(len(key_ND)), row_N, label_N)
