"""Steps of an objective of a user's own (`remembering`): over ranks, micro-batches and ZeRO stages, and its state."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo_ranks import run_on_ranks
from remembering import PATH, UNTAUGHT, Projection
from test_step import recipe as step_recipe
from test_step import rows_of, setup_of
from torch import Tensor, nn

from pairmill.errors import RecipeError
from training.gather import Exchange, open_exchange
from training.losses.loss_inputs import LossOutput
from training.model import DualEncoder, Features, Own, Rows
from training.objectives.declaration import Kept, Objective, Setup, When
from training.objectives.saved import resume, to_save
from training.recipe import TrainRecipe

# Over ranks, micro-batches and ZeRO stages


def of_step(path: str = PATH, *, accumulate: int = 1, stage: int = 0, width: int = 8) -> TrainRecipe:
    return step_recipe(
        loss={"objective": {"name": path, "size": 10, "width": width}},
        model={"patch_dropout": None},
        train={"accumulate": accumulate},
        deepspeed={"stage": stage},
    )


def _gradients(rank: int, mode: str) -> dict[str, Tensor]:
    """Mean over ranks of the loss and of every parameter's gradient, at the second step: the queue is not empty."""
    import torch.distributed as dist

    from training.teacher import Teacher
    from training.worker import build

    world, used = dist.get_world_size(), of_step()
    objective = used.loss.opened()
    torch.manual_seed(0)
    objective.begin(setup_of(used, rank, world))
    module = DualEncoder(build(used), "fp32", objective.heads(objective.setup))
    teacher, exchange = Teacher(module, objective.teacher_decay), open_exchange(mode)(0)
    for step in range(2):
        objective.when = When(step, 2, 1)
        rows = rows_of(step, rank, world)
        features = module(rows)._replace(teacher=teacher([rows]))
        output = objective(features, rows, exchange)
        if step == 0:
            objective.after_step(features.map(Tensor.detach), rows, exchange)
            with torch.no_grad():  # so that teacher and student differ
                for parameter in module.parameters():
                    parameter.mul_(1.1)
    output.total.backward()
    found = {"loss": output.total.detach(), "queue": objective.state["queue"]}
    found |= {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    for name, value in found.items():
        dist.all_reduce(value)
        found[name] = value / world
    return found


@pytest.mark.slow
def test_ranks_give_the_gradients_of_one_process() -> None:
    expected = run_on_ranks(1, _gradients, "gather")[0]
    assert expected["heads.log_scale"].any() and expected["model.logit_scale"].any()
    assert expected["heads.projection"].any() and expected["model.visual.conv1.weight"].any()
    for world, mode in ((2, "gather"), (4, "ring")):
        for found in run_on_ranks(world, _gradients, mode):
            assert found.keys() == expected.keys()
            for name, value in expected.items():
                assert (found[name] - value).norm() <= 2e-5 * value.norm() + 1e-9, name


def _steps(
    rank: int, used: TrainRecipe, first: int, last: int, begin: Path | None = None
) -> tuple[Tensor, tuple[Any, ...] | None]:
    """Losses of the steps, and the whole state that a checkpoint would hold, on rank 0.

    begin: a file with the state to begin from.
    """
    import torch.distributed as dist

    from training.engine import load, model_weights, objective_weights, optimizer_state, set_lr
    from training.step import train_step
    from training.worker import build, start_learner, step_seed

    world = dist.get_world_size()
    engine, _, objective, teacher = start_learner(build(used), used, setup_of(used, rank, world))
    if begin is not None:
        weights, moments, saved = torch.load(begin, weights_only=True)
        resume(objective, teacher, saved)
        load(engine, weights | saved["parameters"], moments)
    exchange, found = open_exchange("gather")(0), []
    for step in range(first, last):
        set_lr(engine, 1e-3)
        objective.when = When(step, 6, 1)
        seed, rows = step_seed(0, step, rank), rows_of(step, rank, world)
        result = train_step(
            engine, rows, objective, exchange, accumulate=used.train.accumulate, seed=seed, teacher=teacher
        )
        found.append(exchange.total(result.loss) / world)
    own = objective_weights(engine, keep=rank == 0)
    saved = to_save(objective, teacher, own, rank=rank)
    weights, moments = model_weights(engine), optimizer_state(engine)
    return torch.stack(found), None if rank else (weights, moments, saved)


@functools.cache
def steps_of(stage: int, path: str, width: int) -> tuple[Tensor, Any]:
    return run_on_ranks(2, _steps, of_step(path, stage=stage, width=width), 0, 6)[0]


#: Wide enough that ZeRO stage 3 takes the projection apart: smaller parameters it leaves whole on every rank.
APART = 2200

STAGES = [(0, PATH, 8), (2, PATH, 8), (3, UNTAUGHT, APART)]  # 1 is what the runs on Ray of test_own_objective have


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "path", "width"), STAGES)
def test_every_zero_stage_learns_the_same_and_resumes_bit_for_bit(
    stage: int, path: str, width: int, tmp_path: Path
) -> None:
    plain, (found, whole_state) = steps_of(0, path, width), steps_of(stage, path, width)
    torch.testing.assert_close(found, plain[0], rtol=1e-3, atol=0)
    used = of_step(path, stage=stage, width=width)
    begun, state = run_on_ranks(2, _steps, used, 0, 3)[0]
    torch.save(state, tmp_path / "state.pt")
    rest, end = run_on_ranks(2, _steps, used, 3, 6, tmp_path / "state.pt")[0]
    assert torch.equal(torch.cat([begun, rest]), found)
    for name in ("replicated", "parameters"):
        for key, value in whole_state[2][name].items():
            assert end[2][name][key].equal(value), key
    moments = whole_state[1]["exp_avg"]
    assert moments["objective.projection"].shape == (48, width) and moments["objective.projection"].any()


@pytest.mark.slow
def test_micro_batches_are_one_step_of_the_whole_batch() -> None:
    whole_, (_, _, saved) = steps_of(0, PATH, 8)
    parts, (_, _, cached) = run_on_ranks(2, _steps, of_step(accumulate=2), 0, 6)[0]
    torch.testing.assert_close(parts, whole_, rtol=1e-4, atol=0)
    assert cached["replicated"]["filled"] == saved["replicated"]["filled"]
    torch.testing.assert_close(cached["replicated"]["queue"], saved["replicated"]["queue"], rtol=1e-2, atol=1e-3)
    assert cached["teacher"]["updates"] == 6


@pytest.mark.slow
def test_replicated_state_resumes_over_another_number_of_workers(tmp_path: Path) -> None:
    whole_, _ = steps_of(0, PATH, 8)
    begun, state = run_on_ranks(2, _steps, of_step(), 0, 3)[0]
    torch.save(state, tmp_path / "state.pt")
    rest, _ = run_on_ranks(1, _steps, of_step(stage=2), 3, 6, tmp_path / "state.pt")[0]
    torch.testing.assert_close(torch.cat([begun, rest]), whole_, rtol=1e-4, atol=0)


def test_weight_decay_leaves_out_what_the_objective_names() -> None:
    from training.engine import _groups
    from training.worker import build

    used = of_step()
    for undecayed, decayed in ((), 0.2), (("projection",), 0.0):
        module = DualEncoder(build(used), "fp32", Projection(48, 8), undecayed)
        groups = {name: group for group in _groups(module, used) for name in group["names"]}
        assert groups["objective.projection"]["weight_decay"] == decayed
        assert groups["objective.log_scale"]["weight_decay"] == 0.0
        assert groups["objective.projection"]["lr_scale"] == 1.0


# State of each worker's own


class Counting(Objective):
    """Counts a worker's rows."""

    keeps = (Kept("seen", "per_worker", "rows that this worker saw"),)

    def start(self, setup: Setup) -> Mapping[str, Tensor]:
        return {"seen": torch.zeros(2)}

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        raise AssertionError("no step is made")


def _counted(rank: int) -> Any:
    import torch.distributed as dist

    used = step_recipe(loss={"objective": f"{__name__}:Counting"})
    objective, again = used.loss.opened(), used.loss.opened()
    for one in (objective, again):
        one.begin(setup_of(used, rank, dist.get_world_size()))
    objective.state["seen"] += rank + 1
    saved = [to_save(objective, None, {}, rank=rank)]
    dist.broadcast_object_list(saved)
    resume(again, None, saved[0])
    return saved[0], again.state["seen"]


def test_state_of_each_worker_is_its_own_again_and_of_no_other_number_of_workers() -> None:
    found = run_on_ranks(2, _counted)
    assert [state.tolist() for _, state in found] == [[1.0, 1.0], [2.0, 2.0]]
    used = step_recipe(loss={"objective": f"{__name__}:Counting"})
    alone = used.loss.opened()
    alone.begin(setup_of(used))
    with pytest.raises(RecipeError, match=r"keeps seen per worker.*\n.*1 workers; the checkpoint: 2\n.*workers to 2"):
        resume(alone, None, found[0][0])


def test_a_checkpoint_of_another_objective_is_refused() -> None:
    used = of_step(UNTAUGHT)
    objective = used.loss.opened()
    objective.begin(setup_of(used))
    saved = to_save(objective, None, {}, rank=0)
    assert saved is not None
    for broken, said in (
        (None, "without its state"),
        (saved | {"objective": "clip"}, "the checkpoint: clip"),
        (saved | {"replicated": {"queue": torch.zeros(3, 8), "filled": torch.tensor(0)}}, r"queue \[10, 8\]"),
    ):
        with pytest.raises(RecipeError, match=said):
            resume(objective, None, broken)


@pytest.mark.slow
def test_a_teacher_is_the_average_and_encodes_without_dropout() -> None:
    from training.teacher import Teacher
    from training.worker import build

    used = step_recipe(loss={"objective": PATH})  # with patch dropout
    module = DualEncoder(build(used), "fp32", Projection(48, 8))
    teacher, rows = Teacher(module, 0.75), rows_of(0, 0, 1)
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    teacher.update()
    found = teacher([rows.part(slice(0, 4)), rows.part(slice(4, 8))])
    assert module.training and not found.image_BD.requires_grad
    assert not torch.equal(module(rows).image_BD, module(rows).image_BD), "the student drops patches"
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(0.75 * before[name] + 0.25 * parameter)
        expected = module.eval()(rows)
    for one, other in zip(found.by_row() + found.common(), expected.by_row() + expected.common(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_heads_give_new_tensors_and_no_scalars() -> None:
    from training.worker import build

    class Leaks(Projection):
        def forward(self, image_BD: Tensor, text_BKD: Tensor) -> Own:
            return Own({}, {"scale": self.log_scale})

    module = DualEncoder(build(of_step()), "fp32", Leaks(48, 8))
    with pytest.raises(RecipeError, match="must return new tensors"):
        module(rows_of(0, 0, 1))
    scalar = nn.Module()
    scalar.scale = nn.Parameter(torch.tensor(1.0))
    with pytest.raises(RecipeError, match="must have a dimension"):
        DualEncoder(build(of_step()), "fp32", scalar)
