"""The exchange of group mode, and open_clip's own losses where they are exact over ranks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from gloo_ranks import run_on_ranks
from naive import Case, make_case
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


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, value in expected.items():
        if value is None:  # the bias of a softmax
            assert not found[name].any()
            continue
        assert torch.linalg.norm(found[name] - value) <= RELATIVE * torch.linalg.norm(value) + 1e-12, name


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
