"""`Exchange.summed`: the sum over the peers of a mode, and the gradients of one process through it."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from gloo_ranks import run_on_ranks
from torch import Tensor

from training.gather import Exchange, Gather, open_exchange

WORLD = 4
#: Two groups that do not hold neighbours, so that a sum over the wrong ranks is seen.
GROUPS = ([0, 2], [1, 3])


def values_of(rank: int) -> Tensor:
    return torch.randn(2, 3, generator=torch.Generator().manual_seed(rank), dtype=torch.float64)


def loss_of(sums: Tensor) -> Tensor:
    return (sums**2).mean(0).log().sum()


def on_rank(rank: int) -> dict[str, tuple[Tensor, Tensor]]:
    """By mode: what is summed, and the own gradient of the mean over ranks of a loss of it."""
    groups = [dist.new_group(members) for members in GROUPS]
    mine = rank % 2
    exchanges = {mode: open_exchange(mode)(0) for mode in ("local", "gather", "ring")}
    found = {}
    for name, exchange in {**exchanges, "group": Gather(groups[mine], GROUPS[mine])}.items():
        # Not contiguous: all_reduce takes no such tensor.
        leaf = values_of(rank).requires_grad_()
        sums = exchange.summed(leaf.T)
        (loss_of(sums) / WORLD).backward()
        assert leaf.grad is not None
        found[name] = (sums.detach(), leaf.grad)
    return found


@pytest.mark.slow
def test_each_mode_sums_over_its_peers_with_the_gradients_of_one_process() -> None:
    everyone = list(range(WORLD))
    peers = {
        "local": [[rank] for rank in everyone],
        "gather": [everyone],
        "ring": [everyone],
        "group": [list(g) for g in GROUPS],
    }
    found = run_on_ranks(WORLD, on_rank)
    for mode, parts in peers.items():
        leaves = [values_of(rank).requires_grad_() for rank in everyone]
        sums = {rank: torch.stack([leaves[one].T for one in part]).sum(0) for part in parts for rank in part}
        gradients = torch.autograd.grad(sum(loss_of(sums[rank]) for rank in everyone) / WORLD, leaves)
        for rank in everyone:
            torch.testing.assert_close(found[rank][mode][0], sums[rank], msg=f"{mode} {rank}")
            torch.testing.assert_close(found[rank][mode][1], gradients[rank], msg=f"{mode} {rank}")


def test_one_process_has_its_own_values() -> None:
    values = values_of(0).requires_grad_()
    for exchange in (Exchange(), open_exchange("gather")(0), open_exchange("ring")(0)):
        assert exchange.summed(values) is values
