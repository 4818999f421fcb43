"""Queues that `loss_by_name` is given, in the form in which an objective keeps them.

Q places, K text slots, D embedding.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from torch import Tensor

from training.objectives.tensor_shapes import check_alike

QUEUES = ("queue_image", "queue_text")


def queues_from(state: Mapping[str, Tensor], given: Mapping[str, Tensor], ids: tuple[str, ...]) -> dict[str, Tensor]:
    """The state with the tensors that are given; Q is that of the longest queue, and the rest of others is empty.

    queue_text is [Q, D], the first texts of rows, or [Q, K, D], of all slots.  ids: of the rows, integers [Q]; -1 where
    they are not given.  Raises RecipeError unless ids are as many as the rows of each queue, and for other shapes.
    """
    others = {name: value.shape for name, value in state.items() if name not in (*QUEUES, *ids)}
    check_alike("the objective keeps it", given, others)
    queues = {name: _in_slots(given[name], state[name]) for name in QUEUES if name in given}
    lengths = [len(one) for one in (*queues.values(), *(given[name] for name in ids if name in given))]
    for size in lengths:
        check_alike("the rows of each queue", given, dict.fromkeys(ids, (size,)))
    if not lengths:
        return {**state, **given}
    size, dtype = max(lengths), next(iter(queues.values()), state["queue_image"]).dtype
    for name in QUEUES:
        queue = queues.get(name, state[name][:0].to(dtype))
        queues[name] = F.pad(queue, (0, 0) * (queue.ndim - 1) + (0, size - len(queue)))
    unknown = {name: state[name].new_full((size,), -1) for name in ids}
    return {**state, **unknown, **given, **queues}


def _in_slots(queue: Tensor, kept: Tensor) -> Tensor:
    """[Q, D] or [Q, K, D] as it is kept: of one text of a row, its first, or of all slots."""
    if queue.ndim == kept.ndim:
        return queue
    if kept.ndim == 3:
        return F.pad(queue[:, None], (0, 0, 0, kept.shape[1] - 1))
    first = (queue != 0).any(2).to(torch.uint8).argmax(1)
    return queue[torch.arange(len(queue), device=queue.device), first]
