"""A queue of embeddings of earlier steps: what is in it, and how it takes in those of a step.

Q places, filled in turn; an empty one holds zeros, which no embedding of norm 1 is.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from training.losses.negatives import Side


def empty(names: tuple[str, ...], size: int, width: int, device: torch.device) -> dict[str, Tensor]:
    """Queues of these names, with ids of the rows in them, their groups, and how many rows there ever were."""
    return {
        **{name: torch.zeros(size, width, device=device) for name in names},
        "queue_id": torch.full((size,), -1, device=device),
        "queue_group": torch.full((size,), -1, device=device),
        "queued": torch.zeros((), dtype=torch.int64, device=device),
    }


def held(state: Mapping[str, Tensor], name: str) -> Side:
    """What a queue holds.  Its rows are named by their ids in the data, so that none meets its own earlier self."""
    queue = state[name]
    return Side(queue, (queue != 0).any(1), state["queue_id"], state["queue_group"])


def taken_in(state: Mapping[str, Tensor], new: Mapping[str, Tensor], count: str) -> dict[str, Tensor]:
    """The state after `new` rows [n, …] of each queue in the place of the oldest; every rank gives the same.

    count: the name of how many rows there ever were.  Queues are changed in place: a copy of each would cost more than
    many a step.
    """
    size, coming = min(len(state[name]) for name in new), len(next(iter(new.values())))
    if not size or not coming:
        return dict(state)
    at = (state[count] + torch.arange(coming, device=state[count].device))[-size:] % size
    written = {
        name: state[name].index_copy_(0, at, values[-size:].to(state[name].dtype)) for name, values in new.items()
    }
    return {**state, **written, count: state[count] + coming}
