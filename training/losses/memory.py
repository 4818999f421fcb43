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
    size = len(queue)
    unknown = torch.full((size,), -1, device=queue.device)
    # A queue that was given without ids and groups has none.
    ids, groups = (state[of] if len(state[of]) == size else unknown for of in ("queue_id", "queue_group"))
    return Side(queue, (queue != 0).any(1), ids, groups)


def taken_in(state: Mapping[str, Tensor], new: Mapping[str, Tensor], ids: Tensor, groups: Tensor) -> dict[str, Tensor]:
    """The state after `new` rows [n, D] of each queue, in the place of the oldest; every rank gives the same."""
    size = min(len(state[name]) for name in new)
    count = len(ids)
    if not size or not count:
        return dict(state)
    at = (state["queued"] + torch.arange(count, device=ids.device))[-size:] % size
    found = {"queue_id": ids, "queue_group": groups, **new}
    written = {
        name: state[name].index_copy(0, at, values[-size:].to(state[name].dtype)) for name, values in found.items()
    }
    return {**state, **written, "queued": state["queued"] + count}
