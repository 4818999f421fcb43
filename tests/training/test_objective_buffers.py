"""Buffers of an objective's heads: all workers have the first one's, which is what a checkpoint holds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gloo_ranks import run_on_ranks
from test_step import recipe, rows_of, setup_of
from torch import Tensor, nn

from training.gather import Exchange, open_exchange
from training.losses.loss_inputs import LossOutput
from training.model import Features, Own, Rows
from training.objectives.declaration import Objective, Setup, When
from training.recipe import TrainRecipe
from training.step import train_step


class Centred(nn.Module):
    """Takes off the mean of the images that this worker has seen; counts them in other types."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("begun", torch.zeros(1, dtype=torch.bool))
        self.register_buffer("scratch", torch.zeros(1), persistent=False)

    def forward(self, image_BD: Tensor, text_BKD: Tensor) -> Own:
        centred = (image_BD - self.centre) * self.weight
        if self.training:
            self.centre.lerp_(image_BD.detach().mean(0), 0.5)
            self.seen += int(image_BD.detach()[0, 0] * 1e6)
            self.begun |= bool(image_BD.detach()[0, 0] > 0)
            self.scratch += image_BD.detach()[0, 0]
        return Own({"centred": centred}, {})


class Centre(Objective):
    def heads(self, setup: Setup) -> nn.Module:
        return Centred(setup.width)

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        loss = (features.own.rows["centred"] ** 2).mean() + (features.image_BD * features.text_BKD[:, 0]).sum(1).mean()
        return LossOutput(loss, {"loss": loss.detach()})


def _buffers(rank: int, used: TrainRecipe) -> list[dict[str, Any]]:
    from training.worker import build, start_learner

    engine, _, objective, _ = start_learner(build(used), used, setup_of(used, rank, 2))
    found = []
    for step in range(2):
        objective.when = When(step, 2, 1)
        train_step(engine, rows_of(step, rank, 2), objective, open_exchange("gather")(0), accumulate=1, seed=step)
        heads = engine.module.heads
        found.append({name: value.detach().clone() for name, value in heads.named_buffers()})
    return found


@pytest.mark.slow
def test_all_workers_have_the_buffers_that_a_checkpoint_holds() -> None:
    used = recipe(loss={"objective": f"{__name__}:Centre"})
    first, second = run_on_ranks(2, _buffers, used)
    for one, other in zip(first, second, strict=True):
        assert one["centre"].any() and one["seen"] != 0
        for name in ("centre", "seen", "begun"):
            assert one[name].equal(other[name]), name
        # What no checkpoint holds is each worker's own.
        assert not one["scratch"].equal(other["scratch"])
