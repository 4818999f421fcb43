"""Rule R1 for every objective of the registry: W ranks give the value and gradients of one process.

Starting ranks takes seconds, an objective milliseconds: each test computes all of them on the ranks it starts.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import pytest
import torch
import torch.distributed as dist
from entries import BY_ROW, Entry, gradients, leaves, tensors_of
from every_entry import BY_NAME, ENTRIES
from gloo_ranks import run_on_ranks
from torch import Tensor

from training.gather import open_exchange
from training.objectives.by_name import computed
from training.objectives.config import OBJECTIVES

ROWS, SLOTS, WIDTH = 12, 3, 8
UNEVEN = {2: [7, 5], 4: [4, 1, 5, 2]}
GROUP_SIZE = 2


def whole(entry: Entry, *, holes: bool) -> dict[str, Any]:
    return tensors_of(entry, ROWS, SLOTS, WIDTH, holes=holes, groups=holes)


def part(tensors: dict[str, Any], mine: list[int], most: int) -> dict[str, Any]:
    """Some rows, padded to `most` with rows that have no text."""
    rows = mine + [0] * (most - len(mine))
    found = {name: value[rows] if name in BY_ROW else value for name, value in tensors.items()}
    found["text_mask"] = found["text_mask"].clone()
    found["text_mask"][len(mine) :] = False
    return found


def on_rank(rank: int, mode: str, share: list[list[int]], holes: bool) -> dict[str, dict[str, Tensor]]:
    """By objective: the mean over ranks of value and gradients; this rank has the rows `share[rank]`."""
    exchange = open_exchange(mode, group_size=GROUP_SIZE if mode == "group" else None, seed=3)(0)
    found = {}
    for entry in (entry for entry in ENTRIES if mode in OBJECTIVES.get(entry.name).modes):
        for number, settings in enumerate(entry.settings):
            tensors = whole(entry, holes=holes)
            local = part(tensors, share[rank], max(map(len, share)))
            total = computed(entry.name, local, settings, "paper", exchange, (3, 5))[0].total
            found[f"{entry.name} {number}"] = {"": total.detach(), **gradients(total, tensors)}
    # One message for all of them.
    every = [(what, name, value) for what, each in found.items() for name, value in each.items()]
    together = torch.cat([value.flatten() for _, _, value in every])
    dist.all_reduce(together)
    means = (together / dist.get_world_size()).split([value.numel() for _, _, value in every])
    for (what, name, value), mean in zip(every, means, strict=True):
        found[what][name] = mean.view(value.shape)
    return found


def expected(entry: Entry, settings: Any, tensors: dict[str, Any], parts: list[list[int]]) -> dict[str, Tensor]:
    """The mean over parts of the batch, each by itself."""
    losses = [entry.reference(part(tensors, rows, len(rows)), settings, "paper") for rows in parts]
    total = torch.stack(losses).mean()
    return {"": total.detach(), **gradients(total, tensors)}


def assert_equal(found: dict[str, Tensor], wanted: dict[str, Tensor], what: str) -> None:
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-9, msg=lambda m, n=name: f"{what} {n}: {m}")


def compare(of_ranks: list[dict[str, dict[str, Tensor]]], mode: str, holes: bool, parts: list[list[int]]) -> None:
    for entry in ENTRIES:
        if mode in OBJECTIVES.get(entry.name).modes:
            for number, settings in enumerate(entry.settings):
                wanted = expected(entry, settings, whole(entry, holes=holes), parts)
                for found in of_ranks:
                    assert_equal(found[f"{entry.name} {number}"], wanted, f"{entry.name} {settings}")


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("mode", ["gather", "ring"])
def test_ranks_give_the_gradients_of_one_process(mode: str, world: int) -> None:
    bounds = [sum(UNEVEN[world][:r]) for r in range(world + 1)]
    share = [list(range(begin, end)) for begin, end in itertools.pairwise(bounds)]
    compare(run_on_ranks(world, on_rank, mode, share, True), mode, True, [list(range(ROWS))])


@pytest.mark.slow
def test_local_has_the_negatives_of_the_own_rank_only() -> None:
    # Without holes: then every rank has as many texts, and the mean over ranks is plain.
    share = [list(range(6)), list(range(6, 12))]
    compare(run_on_ranks(2, on_rank, "local", share, False), "local", False, share)


@functools.cache
def in_groups() -> list[Any]:
    return run_on_ranks(4, on_rank, "group", [list(range(3 * r, 3 * r + 3)) for r in range(4)], False)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in BY_NAME if "group" in OBJECTIVES.get(name).modes])
def test_groups_of_two_of_four_ranks_are_the_mean_over_the_groups(name: str) -> None:
    share = [list(range(3 * r, 3 * r + 3)) for r in range(4)]
    entry = BY_NAME[name]
    for number, settings in enumerate(entry.settings):
        found, fits = in_groups()[0][f"{name} {number}"], []
        for pairs in ([(0, 1), (2, 3)], [(0, 2), (1, 3)], [(0, 3), (1, 2)]):
            tensors = whole(entry, holes=False)
            wanted = expected(entry, settings, tensors, [share[one] + share[other] for one, other in pairs])
            fits.append(all(torch.allclose(found[n], v, rtol=1e-6, atol=1e-9) for n, v in wanted.items()))
        assert fits.count(True) == (1 if entry.mixes_rows else len(fits))


def test_a_rank_without_leaves_would_be_no_test() -> None:
    assert all({"image", "text"} <= leaves(whole(entry, holes=True)).keys() for entry in ENTRIES)
