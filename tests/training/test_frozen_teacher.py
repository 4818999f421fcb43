"""The need `frozen_teacher`: the model as its run began, over ranks, micro-batches and resumes."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo_ranks import run_on_ranks
from test_objective_buffers import Centred
from test_step import recipe as step_recipe
from test_step import rows_of, setup_of
from torch import Tensor, nn

from pairmill.errors import RecipeError
from training.gather import Exchange, open_exchange
from training.losses.loss_inputs import LossOutput
from training.model import DualEncoder, Features, Own, Rows
from training.objectives.declaration import Objective, Setup, When
from training.objectives.saved import resume, to_save
from training.recipe import TrainRecipe


class Anchored(Objective):
    """Images near to the texts of the model as it began, and to their own embeddings of an average."""

    needs = ("frozen_teacher", "teacher")
    teacher_decay = 0.9

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        if features.frozen is None or features.teacher is None:
            raise RuntimeError("this objective must have two teachers")
        valid = rows.text_mask_BK[:, 0]
        count = exchange.total(valid.sum().float()).clamp(min=1)
        aims = {"frozen": features.frozen.text_BKD[:, 0], "average": features.teacher.image_BD}
        cosines = {name: (features.image_BD * aim).sum(1)[valid] for name, aim in aims.items()}
        parts = {name: exchange.world * (1 - found).square().sum() / count for name, found in cosines.items()}
        return LossOutput(sum(parts.values(), torch.zeros(())), {name: part.detach() for name, part in parts.items()})


class Alone(Anchored):
    """The frozen teacher only, which has no heads."""

    needs = ("frozen_teacher",)

    def heads(self, setup: Setup) -> nn.Module:
        return Centred(setup.width)


PATH, ALONE = f"{__name__}:Anchored", f"{__name__}:Alone"


def of_step(path: str = PATH, *, accumulate: int = 1, stage: int = 0, seed: int = 0) -> TrainRecipe:
    return step_recipe(
        loss={"objective": path},
        model={"patch_dropout": None},
        train={"accumulate": accumulate, "seed": seed},
        deepspeed={"stage": stage},
    )


def _steps(rank: int, used: TrainRecipe, first: int, last: int, begin: Path | None = None) -> tuple[Tensor, Any]:
    """Losses of the steps by part, [steps, 2], and what a checkpoint would hold, on rank 0."""
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
        objective.when = When(step, 4, 1)
        rows = rows_of(step, rank, world)
        result = train_step(
            engine, rows, objective, exchange, accumulate=used.train.accumulate, seed=step, teacher=teacher
        )
        found.append(exchange.total(torch.stack([result.parts[name] for name in ("frozen", "average")])) / world)
    saved = to_save(objective, teacher, objective_weights(engine, keep=rank == 0), rank=rank)
    weights, moments = model_weights(engine), optimizer_state(engine)
    return torch.stack(found), None if rank else (weights, moments, saved)


@functools.cache
def whole(stage: int = 0) -> tuple[Tensor, Any]:
    return run_on_ranks(2, _steps, of_step(stage=stage), 0, 4)[0]


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 2])
def test_a_resumed_run_keeps_the_teacher_of_its_beginning_bit_for_bit(stage: int, tmp_path: Path) -> None:
    found, (_, _, end) = whole(stage)
    begun, state = run_on_ranks(2, _steps, of_step(stage=stage), 0, 2)[0]
    torch.save(state, tmp_path / "state.pt")
    # Another seed: what the model would begin with now is not what the run began with.
    rest, (_, _, resumed) = run_on_ranks(2, _steps, of_step(stage=stage, seed=5), 2, 4, tmp_path / "state.pt")[0]
    assert torch.equal(torch.cat([begun, rest]), found)
    assert end["frozen"].keys() == resumed["frozen"].keys()
    for name, value in end["frozen"].items():
        assert resumed["frozen"][name].equal(value), name
    assert not found[0].equal(found[3])


@pytest.mark.slow
def test_ranks_and_micro_batches_are_one_step_of_the_whole_batch() -> None:
    expected, _ = run_on_ranks(1, _steps, of_step(), 0, 4)[0]
    for found in (whole()[0], run_on_ranks(2, _steps, of_step(accumulate=2), 0, 4)[0][0]):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("learnable", [True, False])
@pytest.mark.parametrize("architecture", ["vit", "resnet"])
def test_it_is_the_model_as_it_was_with_its_statistics_and_temperature(architecture: str, learnable: bool) -> None:
    from training.teacher import open_teachers
    from training.worker import build

    temperature = {"learnable": learnable, "init": 0.07}
    file = f"tests/pairmill/towers/configs/{architecture}.json"
    model = {"architecture": file, "patch_dropout": 0.5 if architecture == "vit" else None}
    used = step_recipe(loss={"objective": ALONE}, temperature=temperature, model=model)
    objective = used.loss.opened()
    module = DualEncoder(build(used), "fp32", Centred(48), (), objective.needs)
    before, rows = copy.deepcopy(module).eval(), rows_of(0, 0, 1)
    teachers = open_teachers(module, objective)
    assert teachers is not None
    module(rows)  # which moves the running statistics
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    teachers.update()
    found = teachers([rows.part(slice(0, 4)), rows.part(slice(4, 8))])
    frozen, now = found.frozen, module(rows)
    assert found.average is None and frozen is not None and module.training
    with torch.no_grad():
        expected = before(rows)
    assert frozen.own == Own({}, {}) and now.own.rows.keys() == {"centred"}
    for name in ("image_BD", "text_BKD", "scale"):
        one, other, learnt = (getattr(features, name) for features in (frozen, expected, now))
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
        assert not one.requires_grad and (one - learnt).abs().max() > 1e-3


def test_no_objective_without_the_need_has_one() -> None:
    from training.teacher import open_teachers
    from training.worker import build

    used = step_recipe()
    assert open_teachers(DualEncoder(build(used), "fp32"), used.loss.opened()) is None


def test_zero_stage_3_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"stage must be below 3 .*weights of its teacher.*\n.*stage: 3"):
        of_step(ALONE, stage=3)
