"""A model that learns clip and every term that needs embeddings only: over ranks, micro-batches and precisions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gloo_ranks import run_on_ranks
from test_step import recipe as step_recipe
from test_step import rows_of, setup_of
from torch import Tensor

from training.gather import open_exchange
from training.objectives.declaration import When
from training.recipe import TrainRecipe

HEADS = {"hidden": 12, "width": 8}
TERMS: dict[str, Any] = {
    **{name: {"weight": 0.1} for name in ("align", "uniform", "cross_uniform", "mv_dhel", "mv_infonce", "rafa")},
    "barlow": {"objective": {"name": "barlow", **HEADS}},
    "siam": {"objective": {"name": "siam", "target": "teacher", "decay": 0.5, **HEADS}},
    "simsiam": {"objective": {"name": "siam", "decay": 0.5, **HEADS}},
    "swav": {"objective": {"name": "swav", **HEADS}, "weight": 0.2},
    "mixup": {"weight": 0.1},
}
STEPS = 4


def of(precision: str = "fp32", *, accumulate: int = 1) -> TrainRecipe:
    return step_recipe(
        loss={"objective": "clip", "terms": TERMS},
        model={"patch_dropout": None},
        train={"accumulate": accumulate, "precision": precision},
    )


def steps(rank: int, used: TrainRecipe) -> tuple[Tensor, dict[str, Tensor]]:
    """The whole batch's losses, and its parts at the last step; mixup is over after two of four steps."""
    import torch.distributed as dist

    from training.engine import set_lr
    from training.step import train_step
    from training.worker import build, start_learner, step_seed

    world = dist.get_world_size()
    engine, _, objective, teacher = start_learner(build(used), used, setup_of(used, rank, world))
    exchange, found = open_exchange("gather")(0), []
    for step in range(STEPS):
        set_lr(engine, 1e-3)
        objective.when = When(step, STEPS, 1)
        result = train_step(
            engine,
            rows_of(step, rank, world),
            objective,
            exchange,
            accumulate=used.train.accumulate,
            seed=step_seed(0, step, rank),
            teacher=teacher,
        )
        found.append(exchange.total(result.loss) / world)
    return torch.stack(found), dict(result.parts)


@pytest.mark.slow
def test_ranks_and_micro_batches_change_nothing() -> None:
    whole, parts = run_on_ranks(1, steps, of())[0]
    assert parts.keys() == {"clip", *TERMS}
    assert all(part.isfinite() and part != 0 for part in parts.values())
    assert len(set(whole.tolist())) == STEPS
    for losses, _ in (run_on_ranks(1, steps, of(accumulate=4))[0], *run_on_ranks(2, steps, of())):
        torch.testing.assert_close(losses, whole, rtol=2e-5, atol=0)


@pytest.mark.slow
def test_bfloat16_is_close() -> None:
    exact, low = (run_on_ranks(1, steps, of(precision))[0][0] for precision in ("fp32", "bf16"))
    torch.testing.assert_close(low, exact, rtol=2e-2, atol=0)
