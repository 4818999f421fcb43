"""How the columns of a contrastive loss reach every rank: all at once, ring by ring, or not at all.

The only file near the losses that knows of `torch.distributed`.  A loss is rows (images of this rank) against columns
(texts of the ranks it is contrasted with).  Its kernel computes one block of columns; an `Exchange` brings the
blocks and adds up what the ranks computed for each.

    local    own columns only: no communication, fewer negatives
    gather   every rank holds all columns: O(G·D) memory, one message each way
    group    as gather, within groups of ranks that change from step to step (grouped aggregation of M2-Encoder)
    ring     blocks travel from rank to rank: O(B·D) memory, the same numbers as gather

An objective without a kernel has three messages: `everyone`, for what needs no gradient (queues, loss tables), and
`contrasted` and `summed`, which carry gradients back.

n rows of this rank, m columns of this rank, D embedding.  Every rank must have the same m: pad, and mark as not valid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from pairmill.errors import RecipeError

# torch 2.14 gave them new names and deprecated the old ones.
_all_gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
_reduce_scatter = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)

#: What is summed over ranks for one block: (largest logit, sum of exp(logit - largest)) by column.
Lse = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Columns:
    """Columns of the loss, of one rank or of many.

    key:    [m, D] floating.  valid: [m] bool, false for padding.  weight: [m] floating, of the column's own loss.
    row:    [m] int64, number of the column's row over all ranks.  group: [m] int64, rows of one group are no negatives
            of each other; -1 for none.  extra: [m, E] floating or None, for soft targets.
    """

    key: Tensor
    valid: Tensor
    weight: Tensor
    row: Tensor
    group: Tensor
    extra: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> Columns:
        """The same columns with every tensor changed."""
        return replace(self, **{f.name: change(t) for f in fields(self) if (t := getattr(self, f.name)) is not None})


class Exchange:
    """The local mode: this rank's own columns.  The other modes derive from it."""

    def __init__(self) -> None:
        on = dist.is_available() and dist.is_initialized()
        self.world, self.rank = (dist.get_world_size(), dist.get_rank()) if on else (1, 0)
        #: Ranks that this mode contrasts with, this one among them, and which of them it is.
        self.peers, self.place = 1, 0
        self._group: dist.ProcessGroup | None = None

    def total(self, values: Tensor) -> Tensor:
        """Sum over all ranks, whatever the mode; no gradient."""
        values = values.detach().clone()
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def everyone(self, values: Tensor) -> Tensor:
        """Rows [n, …] of all ranks [W·n, …], in the order of ranks, whatever the mode; no gradient (rule R4)."""
        values = values.detach()
        return values if self.world == 1 else _gathered(values, self.world, None)

    def contrasted(self, values: Tensor) -> Tensor:
        """Floating rows [n, …] of this rank's peers [peers·n, …], in the order of ranks; the own ones begin at place·n.

        Its gradient is the sum over the peers: the mean over ranks of a loss of own rows against these has the gradient
        of one process on the whole batch (rule R1).  All rows are in memory at once, in mode ring too.
        """
        if self.peers == 1:
            return values
        found: Tensor = _Contrasted.apply(values, self.peers, self._group)
        return found

    def summed(self, values: Tensor) -> Tensor:
        """The sum of floating values over this rank's peers, the same on each of them; every peer has the same shape.

        For a sum over the batch inside a non-linear function, such as the log of a mean.  Its gradient is the sum of
        the peers' gradients: where each peer computes the same loss of the sum, the mean over ranks is exact (rule R1).
        """
        if self.peers == 1:
            return values
        found: Tensor = _Summed.apply(values, self._group)
        return found

    def lse(self, columns: Columns, visit: Callable[[Columns], Lse]) -> Lse:
        """`visit` every block of columns; the result for the own columns over the rows of all ranks."""
        return visit(columns)

    def gradient(self, columns: Columns, own: Tensor, visit: Callable[[Columns, Tensor], Tensor]) -> Tensor:
        """`visit` every block of columns with its part of `own` [m]; the summed gradients [m, D] of the own columns."""
        return visit(columns, own)


class Gather(Exchange):
    """All columns of `ranks` (None: of every rank) at once."""

    def __init__(self, group: dist.ProcessGroup | None = None, members: Sequence[int] | None = None) -> None:
        super().__init__()
        self._group = group
        self._members = list(members) if members is not None else list(range(self.world))
        self.peers, self.place = len(self._members), self._members.index(self.rank)

    def lse(self, columns: Columns, visit: Callable[[Columns], Lse]) -> Lse:
        largest, total = visit(columns.map(self._all))
        common = largest.clone()
        if self.peers > 1:
            dist.all_reduce(common, dist.ReduceOp.MAX, group=self._group)
            total = total * _shift(largest, common)
            dist.all_reduce(total, group=self._group)
        return self._mine(common), self._mine(total)

    def gradient(self, columns: Columns, own: Tensor, visit: Callable[[Columns, Tensor], Tensor]) -> Tensor:
        found = visit(columns.map(self._all), self._all(own))
        if self.peers == 1:
            return found
        mine = torch.empty_like(self._mine(found))
        _reduce_scatter(mine, found.contiguous(), group=self._group)
        return mine

    def _all(self, own: Tensor) -> Tensor:
        return own if self.peers == 1 else _gathered(own, self.peers, self._group)

    def _mine(self, values: Tensor) -> Tensor:
        return values.chunk(self.peers)[self.place]


class Ring(Exchange):
    """One block of columns at a time: it travels round all ranks with what they computed for it, and returns."""

    def __init__(self) -> None:
        super().__init__()
        self.peers, self.place = self.world, self.rank

    def lse(self, columns: Columns, visit: Callable[[Columns], Lse]) -> Lse:
        travelling: Lse | None = None
        for _ in range(self.world):
            found = visit(columns)
            travelling = found if travelling is None else _joined(travelling, found)
            columns = columns.map(self._pass_on)
            travelling = (self._pass_on(travelling[0]), self._pass_on(travelling[1]))
        assert travelling is not None
        return travelling

    def gradient(self, columns: Columns, own: Tensor, visit: Callable[[Columns, Tensor], Tensor]) -> Tensor:
        travelling: Tensor | None = None
        for _ in range(self.world):
            found = visit(columns, own)
            travelling = found if travelling is None else travelling + found
            columns, own, travelling = columns.map(self._pass_on), self._pass_on(own), self._pass_on(travelling)
        assert travelling is not None
        return travelling

    def _pass_on(self, block: Tensor) -> Tensor:
        if self.world == 1:
            return block
        block = block.contiguous()
        sent = block.view(torch.uint8) if block.dtype == torch.bool else block
        received = torch.empty_like(sent)
        after, before = (self.rank + 1) % self.world, (self.rank - 1) % self.world
        for request in dist.batch_isend_irecv(
            [dist.P2POp(dist.isend, sent, after), dist.P2POp(dist.irecv, received, before)]
        ):
            request.wait()
        return received.view(torch.bool) if block.dtype == torch.bool else received


class _Contrasted(torch.autograd.Function):
    """Gather forward, sum and scatter backward."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, members: int, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group, ctx.shape = group, values.shape
        return _gathered(values, members, group)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        mine = upstream[0].new_empty(ctx.shape)
        _reduce_scatter(mine, upstream[0].contiguous(), group=ctx.group)
        return mine, None, None


class _Summed(torch.autograd.Function):
    """Sum forward, sum backward."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group = group
        return _summed(values, group)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        return _summed(upstream[0], ctx.group), None


def _summed(own: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    found = own.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(found, group=group)
    return found


def _gathered(own: Tensor, members: int, group: dist.ProcessGroup | None) -> Tensor:
    own = own.contiguous()
    # NCCL and gloo agree on bytes, not on bool.
    sent = own.view(torch.uint8) if own.dtype == torch.bool else own
    found = sent.new_empty((members * len(sent), *sent.shape[1:]))
    _all_gather(found, sent, group=group)
    return found.view(torch.bool) if own.dtype == torch.bool else found


def _joined(one: Lse, other: Lse) -> Lse:
    largest = torch.maximum(one[0], other[0])
    return largest, one[1] * _shift(one[0], largest) + other[1] * _shift(other[0], largest)


def _shift(largest: Tensor, common: Tensor) -> Tensor:
    # Where no row has a logit for the column, both are -inf.
    return torch.where(largest == -torch.inf, 0.0, torch.exp(largest - common))


#: Partitions of the ranks among which `group` changes; process groups are made once, and each holds connections.
_PARTITIONS = 8


def open_exchange(mode: str, *, group_size: int | None = None, seed: int = 0) -> Callable[[int], Exchange]:
    """The exchange of each step; a collective call: every rank makes it, with equal arguments.

    mode: local | gather | group | ring.  group_size: ranks of a group; the world must be a multiple of it.
    The partition of step t is drawn by (seed, t), the same on all ranks (R6).  Raises RecipeError for a group size that
    does not divide the number of ranks.
    """
    if mode != "group":
        exchange = {"local": Exchange, "gather": Gather, "ring": Ring}[mode]()
        return lambda step: exchange
    world = Exchange().world
    size = world if group_size is None else group_size
    if size < 1 or world % size:
        raise RecipeError(
            "loss.group_size must divide the number of workers",
            value=f"{size} of {world}",
            fix="choose a divisor, or other compute.workers",
        )
    return _rotating(_partitions(world, size, seed), seed)


def _partitions(world: int, size: int, seed: int) -> list[list[list[int]]]:
    """Neighbours first (ranks of a node talk fastest), then seeded shuffles."""
    if size in (1, world):
        return [np.arange(world).reshape(-1, size).tolist()]
    random = np.random.default_rng([seed, world, size])
    drawn = [np.arange(world)] + [random.permutation(world) for _ in range(_PARTITIONS - 1)]
    return [np.sort(order.reshape(-1, size), axis=1).tolist() for order in drawn]


def _rotating(partitions: list[list[list[int]]], seed: int) -> Callable[[int], Exchange]:
    rank = Exchange().rank
    mine = []
    for partition in partitions:
        for members in partition:
            # Every rank takes part in making every group, also of those it is not in.
            group = dist.new_group(members) if dist.is_initialized() else None
            if rank in members:
                assert not isinstance(group, int)
                mine.append(Gather(group, members))

    def of_step(step: int) -> Exchange:
        return mine[int(np.random.default_rng([seed, step]).integers(len(mine)))]

    return of_step
