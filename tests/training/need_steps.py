"""Training steps of an objective of a test's own: the whole batch, over ranks and by micro-batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from test_step import recipe as step_recipe
from test_step import setup_of
from torch import Tensor

from training.gather import open_exchange
from training.model import Rows
from training.objectives.declaration import When
from training.recipe import TrainRecipe


def recipe_of(path: str, *, accumulate: int = 1, precision: str = "fp32", stage: int = 0, **model: Any) -> TrainRecipe:
    """A recipe of the objective at an import path, without patch dropout."""
    return step_recipe(
        loss={"objective": path},
        model={"patch_dropout": None, **model},
        train={"accumulate": accumulate, "precision": precision},
        deepspeed={"stage": stage},
    )


def three_steps(
    rank: int, used: TrainRecipe, rows_of: Callable[[int, int, int], Rows]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Losses of three steps, and the weights after them, those of the objective too.

    rows_of: (step, rank, world) -> this rank's share of the batch.
    """
    import torch.distributed as dist

    from training.engine import model_weights, objective_weights, set_lr
    from training.step import train_step
    from training.worker import build, start_learner

    world = dist.get_world_size()
    engine, _, objective, teacher = start_learner(build(used), used, setup_of(used, rank, world))
    exchange, found = open_exchange("gather")(0), []
    for step in range(3):
        set_lr(engine, 1e-3)
        objective.when = When(step, 3, 3)
        rows = rows_of(step, rank, world)
        result = train_step(
            engine, rows, objective, exchange, accumulate=used.train.accumulate, seed=step, teacher=teacher
        )
        found.append(exchange.total(result.loss) / world)
    return torch.stack(found), model_weights(engine) | objective_weights(engine)
