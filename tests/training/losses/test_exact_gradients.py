"""Rule R1: W ranks give the value and the gradients of one process on the whole batch."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from gloo_ranks import run_on_ranks
from naive import CONTRASTIVE, Case, make_case, naive_loss
from torch import Tensor

from training.gather import open_exchange
from training.losses.compose import compute_loss
from training.losses.loss_inputs import LossInputs
from training.objectives.config import LossConfig

ROWS, SLOTS, WIDTH, INPUT = 12, 3, 8, 6
RELATIVE = 1e-5


class Towers(torch.nn.Module):
    """Two linear towers and the loss's own parameters: what each rank holds a copy of."""

    def __init__(self) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(5)
        self.image = torch.nn.Parameter(torch.randn(INPUT, WIDTH, generator=random, dtype=torch.float64))
        self.text = torch.nn.Parameter(torch.randn(INPUT, WIDTH, generator=random, dtype=torch.float64))
        self.log_scale = torch.nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
        self.bias = torch.nn.Parameter(torch.tensor(-3.0, dtype=torch.float64))

    def case(self, raw: Case) -> Case:
        return Case(
            raw.image_GD.detach() @ self.image,
            raw.text_GKD.detach() @ self.text,
            raw.mask_GK,
            raw.group_G,
            self.log_scale,
            self.bias,
        )


def ours(case: Case, config: LossConfig, step: int = 0) -> Tensor:
    inputs = LossInputs(
        F.normalize(case.image_GD, dim=-1).float(),
        F.normalize(case.text_GKD, dim=-1).float(),
        case.mask_GK,
        case.log_scale.exp().float(),
        case.bias.float(),
        case.group_G,
    )
    exchange = open_exchange(config.mode, group_size=config.group_size, seed=3)(step)
    return compute_loss(inputs, config.opened().contrasts(case.mask_GK), exchange, tile=config.tile)


def rank_gradients(rank: int, raw: Case, config: LossConfig, share: list[list[int]]) -> dict[str, Tensor]:
    """What this rank's parameters get after the mean over ranks; it has the rows of `share[rank]`, padded."""
    towers = Towers()
    most = max(len(rows) for rows in share)
    mine = share[rank] + [0] * (most - len(share[rank]))
    mask = raw.mask_GK[mine].clone()
    mask[len(share[rank]) :] = False
    local = Case(raw.image_GD[mine], raw.text_GKD[mine], mask, raw.group_G[mine], raw.log_scale, raw.bias)
    loss = ours(towers.case(local), config)
    loss.backward()
    return averaged({"loss": loss.detach(), **{n: p.grad for n, p in towers.named_parameters()}})


def averaged(values: dict[str, Any]) -> dict[str, Tensor]:
    found = {}
    for name, value in values.items():
        summed = torch.zeros(()) if value is None else value.clone()
        dist.all_reduce(summed)
        found[name] = summed / dist.get_world_size()
    return found


def expected_gradients(raw: Case, target: str) -> dict[str, Tensor]:
    towers = Towers()
    loss = naive_loss(towers.case(raw), target)
    loss.backward()
    return {"loss": loss.detach(), **{n: p.grad for n, p in towers.named_parameters()}}


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, value in expected.items():
        if value is None:  # the bias of a softmax
            assert not found[name].any()
            continue
        assert torch.linalg.norm(found[name] - value) <= RELATIVE * torch.linalg.norm(value) + 1e-12, name


def raw_case(groups: bool) -> Case:
    case = make_case(ROWS, SLOTS, INPUT, groups=groups)
    return copy.copy(case)._replace(image_GD=case.image_GD.detach(), text_GKD=case.text_GKD.detach())


UNEVEN = {1: [12], 2: [7, 5], 4: [4, 1, 5, 2]}


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("mode", ["gather", "ring"])
@pytest.mark.parametrize("target", CONTRASTIVE)
def test_ranks_give_the_gradients_of_one_process(target: str, mode: str, world: int) -> None:
    raw = raw_case(groups=True)
    bounds = [sum(UNEVEN[world][:r]) for r in range(world + 1)]
    share = [list(range(begin, end)) for begin, end in itertools.pairwise(bounds)]
    config = LossConfig(objective=target, mode=mode, tile=(3, 5))
    results = run_on_ranks(world, rank_gradients, raw, config, share)
    for found in results:
        assert_equal(found, expected_gradients(raw, target))


@pytest.mark.slow
@pytest.mark.parametrize("target", CONTRASTIVE)
def test_groups_of_two_of_four_ranks_are_the_mean_over_the_groups(target: str) -> None:
    # Full masks: then both groups have as many texts, and the mean over groups is plain.
    raw = raw_case(groups=False)
    raw = raw._replace(mask_GK=torch.ones_like(raw.mask_GK))
    share = [list(range(3 * r, 3 * r + 3)) for r in range(4)]
    config = LossConfig(objective=target, mode="group", group_size=2, tile=(3, 5))
    results = run_on_ranks(4, rank_gradients, raw, config, share)
    matches = []
    for pairs in ([(0, 1), (2, 3)], [(0, 2), (1, 3)], [(0, 3), (1, 2)]):
        towers = Towers()
        whole = towers.case(raw)
        losses = []
        for pair in pairs:
            rows = [row for rank in pair for row in share[rank]]
            part = Case(whole.image_GD[rows], whole.text_GKD[rows], *(t[rows] for t in whole[2:4]), *whole[4:])
            losses.append(naive_loss(part, target))
        torch.stack(losses).mean().backward()
        expected = {n: p.grad for n, p in towers.named_parameters() if p.grad is not None}
        matches.append(all((results[0][n] - g).norm() <= RELATIVE * g.norm() for n, g in expected.items()))
    assert matches.count(True) == 1


@pytest.mark.slow
@pytest.mark.parametrize("target", CONTRASTIVE)
def test_local_has_the_negatives_of_the_own_rank_only(target: str) -> None:
    raw = raw_case(groups=False)
    raw = raw._replace(mask_GK=torch.ones_like(raw.mask_GK))
    share = [list(range(6)), list(range(6, 12))]
    results = run_on_ranks(2, rank_gradients, raw, LossConfig(objective=target, mode="local", tile=(4, 4)), share)
    towers = Towers()
    whole = towers.case(raw)
    parts = [Case(whole.image_GD[r], whole.text_GKD[r], whole.mask_GK[r], whole.group_G[r], *whole[4:]) for r in share]
    loss = torch.stack([naive_loss(part, target) for part in parts]).mean()
    loss.backward()
    assert_equal(results[0], {"loss": loss.detach(), **{n: p.grad for n, p in towers.named_parameters()}})


@pytest.mark.slow
def test_group_rotation_meets_every_pair_of_ranks() -> None:
    met = run_on_ranks(4, _partners)[0]
    assert met == {1, 2, 3}


def _partners(rank: int) -> set[int]:
    exchange = open_exchange("group", group_size=2, seed=1)
    return {other for step in range(40) for other in exchange(step)._members} - {rank}


def _open_clip_gradients(rank: int, raw: Case, kind: str) -> dict[str, Tensor]:
    """open_clip's own loss at the settings that are exact over ranks."""
    import open_clip.loss as theirs

    towers = Towers()
    rows = slice(rank * 6, rank * 6 + 6)
    case = towers.case(Case(raw.image_GD[rows], raw.text_GKD[rows], raw.mask_GK[rows], raw.group_G[rows], *raw[4:]))
    image, text = F.normalize(case.image_GD, dim=-1), F.normalize(case.text_GKD[:, 0], dim=-1)
    if kind == "clip":
        loss = theirs.ClipLoss(local_loss=True, gather_with_grad=True, rank=rank, world_size=2)(
            image, text, case.log_scale.exp()
        )
    else:
        loss = theirs.SigLipLoss(rank=rank, world_size=2, dist_impl="gather")(
            image, text, case.log_scale.exp(), case.bias
        )
    loss.backward()
    return averaged({"loss": loss.detach(), **{n: p.grad for n, p in towers.named_parameters()}})


@pytest.mark.slow
@pytest.mark.parametrize("target", ["clip", "siglip"])
def test_equal_to_open_clip_where_it_is_exact(target: str) -> None:
    raw = make_case(12, 1, INPUT, holes=False)
    raw = raw._replace(image_GD=raw.image_GD.detach(), text_GKD=raw.text_GKD.detach())
    share = [list(range(6)), list(range(6, 12))]
    theirs = run_on_ranks(2, _open_clip_gradients, raw, target)[0]
    mine = run_on_ranks(2, rank_gradients, raw, LossConfig(objective=target, tile=(4, 4)), share)[0]
    assert_equal(mine, theirs)
