"""Steps of self-distillation and `prototype`: over ranks and micro-batches, and from their saved state bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from gloo_ranks import run_on_ranks
from test_step import recipe as step_recipe
from test_step import setup_of
from test_view_needs import rows_of
from torch import Tensor

from training.gather import open_exchange
from training.objectives.declaration import When
from training.objectives.saved import resume, to_save
from training.recipe import TrainRecipe

HEADS = {"hidden": 12, "width": 8}
TERMS: dict[str, Any] = {
    "local_global": {"objective": {"name": "local_global", "prototypes": 24, "decay": 0.5, **HEADS}},
    "prototype": {"objective": {"name": "prototype", "clusters": 4, "episode": 12, "restarts": 1, **HEADS}},
    "masked_prediction": {"objective": {"name": "masked_prediction", "prototypes": 24, "decay": 0.5, **HEADS}},
}
STEPS = 4


def of(*, accumulate: int = 1) -> TrainRecipe:
    return step_recipe(
        loss={"objective": "clip", "terms": TERMS},
        model={"patch_dropout": None},
        train={"accumulate": accumulate},
    )


def steps(rank: int, used: TrainRecipe, first: int, last: int, begin: Path | None = None) -> tuple[Any, ...]:
    import torch.distributed as dist

    from training.engine import load, model_weights, objective_weights, optimizer_state, set_lr
    from training.step import train_step
    from training.worker import build, start_learner

    world = dist.get_world_size()
    engine, _, objective, teacher = start_learner(build(used), used, setup_of(used, rank, world))
    if begin is not None:
        weights, moments, saved = torch.load(begin, weights_only=True)
        resume(objective, teacher, saved)
        load(engine, weights, moments)
    exchange, found = open_exchange("gather")(0), []
    for step in range(first, last):
        set_lr(engine, 1e-3)
        objective.when = When(step, STEPS, 1)
        how = {"accumulate": used.train.accumulate, "seed": step, "teacher": teacher}
        result = train_step(engine, rows_of(step, rank, world), objective, exchange, **how)  # type: ignore[arg-type]
        parts = torch.stack([result.loss, *(result.parts[name] for name in TERMS)])
        found.append(exchange.total(parts) / world)
    own = objective_weights(engine)
    saved = to_save(objective, teacher, own, rank=rank)
    weights, moments = model_weights(engine) | own, optimizer_state(engine)
    return torch.stack(found), None if rank else (weights, moments, saved)


@pytest.mark.slow
def test_steps_are_the_same_over_ranks_and_micro_batches_and_resume_bit_for_bit(tmp_path: Path) -> None:
    whole, _ = run_on_ranks(1, steps, of(), 0, STEPS)[0]
    losses: Tensor = whole[:, 1:]
    # Clusters are there after two batches of eight rows.
    assert (losses[:, [0, 2]] > 0).all() and not losses[:2, 1].any() and (losses[2:, 1] > 0).all()
    split, _ = run_on_ranks(2, steps, of(accumulate=2), 0, STEPS)[0]
    torch.testing.assert_close(split, whole, rtol=1e-4, atol=1e-6)
    begun, state = run_on_ranks(2, steps, of(accumulate=2), 0, 2)[0]
    torch.save(state, tmp_path / "state.pt")
    rest, _ = run_on_ranks(2, steps, of(accumulate=2), 2, STEPS, tmp_path / "state.pt")[0]
    assert torch.equal(torch.cat([begun, rest]), split)
