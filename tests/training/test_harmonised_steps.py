"""A model that learns two losses without conflicts: over ranks and micro-batches, and what the log says of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gloo_ranks import run_on_ranks
from test_step import recipe as step_recipe
from test_step import rows_of, setup_of
from torch import Tensor

from training.gather import open_exchange
from training.objectives.declaration import When
from training.recipe import TrainRecipe

STEPS = 3


def of(accumulate: int = 1) -> TrainRecipe:
    return step_recipe(
        loss={
            "objective": "clip",
            "terms": {"second": {"objective": "siglip", "slots": [1]}, "uniform": {"weight": 0.5}},
            "harmonise": {"drop_below": [-0.9, -0.5]},
        },
        data={"texts": [[{"language": "en"}], [{"language": "zh"}]]},
        model={"patch_dropout": None},
        train={"accumulate": accumulate},
    )


def steps(rank: int, used: TrainRecipe) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """Of each step the loss and rates that the log has; the weights after the last."""
    import torch.distributed as dist

    from training.engine import model_weights, set_lr
    from training.step import train_step
    from training.worker import _agreed, build, start_learner

    world = dist.get_world_size()
    setup = setup_of(used, rank, world)._replace(datasets=3)
    engine, _, objective, teacher = start_learner(build(used), used, setup)
    exchange, found = open_exchange("gather")(0), []
    for step in range(STEPS):
        set_lr(engine, 1e-3)
        objective.when = When(step, STEPS, STEPS)
        rows = rows_of(step, rank, world)
        # No row is of the third.
        rows = rows._replace(dataset_B=rows.sample_id_B % 2)
        options: dict[str, Any] = {"accumulate": used.train.accumulate, "seed": step, "teacher": teacher}
        result = train_step(engine, rows, objective, exchange, **options)
        batch = SimpleNamespace(row_valid_B=np.ones(len(rows.group_B), bool), skipped={})
        agreed = _agreed(result, batch, stop=False, device=torch.device("cpu"))
        found.append({"loss": agreed.loss, **agreed.parts, **agreed.rates})
    return found, model_weights(engine)


@pytest.mark.slow
def test_ranks_and_micro_batches_change_nothing() -> None:
    [(whole, weights)] = run_on_ranks(1, steps, of())
    assert all({"conflict_rate", "conflict_rate/0", "conflict_rate/1", "dropped_rate"} <= line.keys() for line in whole)
    assert not any("conflict_rate/2" in line for line in whole)
    assert any(0 < line["conflict_rate"] < 1 for line in whole)
    for lines, others in (*run_on_ranks(1, steps, of(4)), *run_on_ranks(2, steps, of())):
        assert [pytest.approx(line, rel=2e-5, abs=1e-6) for line in whole] == lines
        for name, weight in weights.items():
            torch.testing.assert_close(others[name], weight, rtol=1e-3, atol=1e-5)
