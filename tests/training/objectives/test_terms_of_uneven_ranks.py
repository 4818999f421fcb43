"""A loss that each rank computes of its own batch weighs by that batch's rows, as a mean over all rows would."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from entries import tensors_of
from every_entry import BY_NAME
from gloo_ranks import run_on_ranks
from test_objectives_over_ranks import part
from torch import Tensor

from training.gather import Exchange
from training.objectives.by_name import computed

NAMES = ("uniform", "cross_uniform", "barlow")
#: The third rank has no row with a text.
SHARES = ([0, 2, 3, 4, 5], [6, 7], [1])


def whole(name: str) -> dict[str, Any]:
    found = tensors_of(BY_NAME[name], 8, 2, 6)
    found["text_mask"][2:, 0] = True
    return found


def on_rank(rank: int) -> dict[str, Tensor]:
    found = {}
    for name in NAMES:
        local = part(whole(name), SHARES[rank], 5)
        total = computed(name, local, BY_NAME[name].settings[0], "paper", Exchange())[0].total.detach()
        dist.all_reduce(total)
        found[name] = total / dist.get_world_size()
    return found


@pytest.mark.slow
def test_ranks_weigh_by_their_rows() -> None:
    found = run_on_ranks(3, on_rank)[0]
    for name in NAMES:
        entry, tensors = BY_NAME[name], whole(name)
        assert tensors["text_mask"].any(1).tolist() == [row != 1 for row in range(8)]
        each = [entry.reference(part(tensors, rows, len(rows)), entry.settings[0], "paper") for rows in SHARES[:2]]
        torch.testing.assert_close(found[name], (5 * each[0] + 2 * each[1]).detach() / 7, msg=name)
