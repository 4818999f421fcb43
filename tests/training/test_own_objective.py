"""An objective of a user's own, all in this file: a queue, an averaged teacher, a projection and a scale that learn.

It is named by its import path, and trained, stopped, killed, resumed, swept and documented as a built-in one is.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from gloo_ranks import run_on_ranks
from pydantic import Field
from test_step import recipe as step_recipe
from test_step import rows_of, setup_of
from test_train import emoji, losses  # noqa: F401  a fixture
from test_train import recipe as run_recipe
from torch import Tensor, nn

from pairmill.errors import RecipeError
from pairmill.registry import NamedConfig
from training.gather import Exchange, open_exchange
from training.losses.loss_inputs import LossOutput
from training.model import DualEncoder, Features, Own, Rows
from training.objectives.config import OBJECTIVES
from training.objectives.declaration import Kept, Objective, Setup, When
from training.objectives.reference import objectives_page
from training.objectives.saved import resume, to_save
from training.recipe import TrainRecipe
from training.train import train
from tune.recipe import SweepRecipe
from tune.space import draw_points, recipe_at


class RememberConfig(NamedConfig):
    size: int = Field(24, ge=1, description="text embeddings of earlier steps that are kept")
    width: int = Field(8, ge=1, description="numbers of a projected embedding")
    decay: float = Field(0.9, gt=0, lt=1, description="share of the teacher that a step leaves as it was")
    weight: float = Field(0.5, ge=0, description="of the queue's part, reached at the last step")


class Projection(nn.Module):
    """Both embeddings on a sphere of another width, and a logit scale of its own."""

    def __init__(self, wide: int, narrow: int) -> None:
        super().__init__()
        self.projection = nn.Parameter(torch.randn(wide, narrow) / wide**0.5)
        self.log_scale = nn.Parameter(torch.full((1,), 2.0))

    def forward(self, image_BD: Tensor, text_BKD: Tensor) -> Own:
        both = {"image": image_BD @ self.projection, "text": text_BKD[:, 0] @ self.projection}
        return Own({n: F.normalize(v, dim=-1) for n, v in both.items()}, {"scale": self.log_scale.exp().sum()})


class Remember(Objective):
    """An image is near to its text in the batch, and to its teacher's against those of earlier steps (MoCo)."""

    Config = RememberConfig
    config: RememberConfig
    needs = ("teacher",)
    keeps = (
        Kept("queue", "replicated", "the teacher's latest text embeddings, the newest last"),
        Kept("filled", "replicated", "how many there are"),
    )
    temperature_init = 0.2

    @property
    def teacher_decay(self) -> float:
        return self.config.decay

    def start(self, setup: Setup) -> Mapping[str, Tensor]:
        queue = torch.zeros(self.config.size, self.config.width, device=setup.device)
        return {"queue": queue, "filled": torch.zeros((), dtype=torch.int64, device=setup.device)}

    def heads(self, setup: Setup) -> nn.Module:
        return Projection(setup.width, self.config.width)

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        valid = rows.text_mask_BK[:, 0]
        image, text, scale = features.own.rows["image"], features.own.rows["text"], features.own.shared["scale"]
        there = exchange.contrasted(valid.float())
        in_batch = (scale * image @ exchange.contrasted(text).T).masked_fill(there == 0, -torch.inf)
        own = torch.arange(len(image)) + exchange.place * len(image)
        positive = (image * self.taught(features)).sum(1, keepdim=True)
        empty = torch.arange(self.config.size) < self.config.size - self.state["filled"]
        earlier = (features.scale * image @ self.state["queue"].T).masked_fill(empty, -torch.inf)
        in_queue = torch.cat([features.scale * positive, earlier], 1)
        each = {
            "batch": F.cross_entropy(in_batch, own, reduction="none"),
            "queue": F.cross_entropy(in_queue, torch.zeros_like(own), reduction="none")
            * (self.config.weight * (self.when.step + 1) / self.when.steps),
        }
        count = exchange.total(valid.sum().float()).clamp(min=1)
        parts = {name: exchange.world * value[valid].sum() / count for name, value in each.items()}
        return LossOutput(torch.stack(list(parts.values())).sum(), {n: part.detach() for n, part in parts.items()})

    def after_step(self, features: Features, rows: Rows, exchange: Exchange) -> None:
        new = exchange.everyone(self.taught(features))[exchange.everyone(rows.text_mask_BK[:, 0])]
        self.state["queue"] = torch.cat([self.state["queue"], new])[-self.config.size :]
        self.state["filled"] = (self.state["filled"] + len(new)).clamp(max=self.config.size)

    def taught(self, features: Features) -> Tensor:
        assert features.teacher is not None
        return features.teacher.own.rows["text"]


class Untaught(Remember):
    """The same without a teacher: its own text embeddings are remembered."""

    needs = ()

    def taught(self, features: Features) -> Tensor:
        return features.own.rows["text"].detach()


PATH, UNTAUGHT = f"{__name__}:Remember", f"{__name__}:Untaught"


# On Ray, end to end


def of_run(emoji: str, run_dir: Path, **sections: Any) -> TrainRecipe:  # noqa: F811
    loss = {"objective": {"name": PATH, "size": 40}}
    train_ = {"steps": 6, "precision": "fp32", "accumulate": 2}
    return run_recipe(emoji, run_dir, **{"loss": loss, "train": train_, **sections})


@pytest.fixture(scope="module")
def whole(
    local_ray: None,
    emoji: str,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Path, dict[str, Any]]]:
    run_dir = tmp_path_factory.mktemp("whole")
    yield run_dir, train(of_run(emoji, run_dir), quiet=True)


@pytest.mark.ray
def test_a_run_keeps_its_state_in_the_checkpoint_beside_a_model_that_open_clip_loads(
    whole: tuple[Path, dict[str, Any]],
) -> None:
    run_dir, result = whole
    assert result["finished"]
    folder = Path(result["checkpoint"])
    saved = torch.load(folder / "objective.pt", weights_only=True)
    assert (saved["objective"], saved["world"], saved["per_worker"]) == (PATH, 2, {})
    assert saved["replicated"]["filled"] == 40 and saved["replicated"]["queue"].norm(dim=1).allclose(torch.ones(40))
    assert saved["parameters"].keys() == {"objective.projection", "objective.log_scale"}
    assert {"objective.projection", "logit_scale"} <= torch.load(folder / "optimizer.pt")["exp_avg"].keys()
    # The teacher follows the student at a distance.
    taught = saved["teacher"]["shadow"]["heads.projection"]
    assert saved["teacher"]["updates"] == 6
    assert not taught.equal(saved["parameters"]["objective.projection"])
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    assert not any("projection" in name and "heads" in name for name in model.state_dict())
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    for line in steps:
        assert line["loss"] == pytest.approx(line["loss/batch"] + line["loss/queue"])
    assert steps[0]["loss/queue"] == 0 < steps[1]["loss/queue"], "the first step has no earlier ones"


@pytest.mark.ray
def test_a_run_that_is_stopped_and_killed_resumes_bit_for_bit(
    whole: tuple[Path, dict[str, Any]],
    emoji: str,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used = of_run(emoji, tmp_path / "run")
    assert train(used, quiet=True, until=3)["step"] == 3
    (tmp_path / "faults").mkdir()
    monkeypatch.setenv("PAIRMILL_FAULTS", "train.committed:kill@1")
    monkeypatch.setenv("PAIRMILL_FAULTS_DIR", str(tmp_path / "faults"))
    result = train(used, quiet=True)
    assert list((tmp_path / "faults").iterdir()), "the fault was met"
    assert losses(tmp_path / "run") == losses(whole[0])
    one, other = (torch.load(Path(r["checkpoint"]) / "objective.pt", weights_only=True) for r in (whole[1], result))
    assert one["replicated"]["queue"].equal(other["replicated"]["queue"])


# The recipe, the sweep and the documentation


LEAST: dict[str, Any] = {"run_dir": "r", "data": {"path": "p"}, "train": {"steps": 4}}


def test_registered_by_one_line_it_is_in_schema_sweep_and_docs() -> None:
    assert "text embeddings of earlier steps" not in json.dumps(TrainRecipe.model_json_schema())
    with OBJECTIVES.extended("remember", Remember):
        schema = TrainRecipe.model_json_schema()["$defs"]["LossConfig"]["properties"]["objective"]
        assert "remember" in schema["anyOf"][0]["enum"]
        assert "text embeddings of earlier steps that are kept" in json.dumps(schema)
        page = objectives_page()
        [section] = [part for part in page.split("\n### ") if part.startswith("`remember`")]
        assert "(MoCo)" in section and "`teacher`" in section
        assert "| `size` | integer ≥ `1` | `24` | text embeddings of earlier steps that are kept |" in section
        assert "| `queue` | replicated | the teacher's latest text embeddings, the newest last |" in section
        space = {
            "loss.objective": {"grid": ["clip", "remember"]},
            "loss.objective.size": {"grid": [8, 16], "when": {"loss.objective": "remember"}},
        }
        val = {"evaluate": {"every_steps": 2, "datasets": {"val": {"path": "v"}}}}
        swept = SweepRecipe.checked(
            {"run_dir": "s", "train": LEAST | val, "space": space, "objectives": [{"metric": "val/x"}]}
        )
        found = [
            recipe_at(swept.base, p).loss.objective for p in draw_points(swept.space, swept.base, samples=1, seed=0)
        ]
        assert [getattr(one, "size", None) for one in found] == [None, 8, 16]


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"loss": {"objective": {"name": PATH, "size": 0}}}, r"loss\.objective\.size"),
        ({"loss": {"objective": {"name": PATH, "sise": 1}}}, "size"),
        (
            {"loss": {"objective": PATH}, "deepspeed": {"stage": 3}},
            "must be below 3 with loss.objective",
        ),
        ({"loss": {"objective": f"{__name__}:Tokens"}}, "tokens .*not delivered yet"),
        ({"loss": {"objective": f"{__name__}:Typo"}}, "perhaps you mean: teacher"),
        ({"loss": {"objective": f"{__name__}:Forgotten"}}, "must be an import path .* that can be imported"),
        ({"loss": {"objective": f"{__name__}:NoObjective"}}, "must be a subclass of"),
    ],
)
def test_what_cannot_be_is_said_before_any_work(sections: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        TrainRecipe.checked(LEAST | sections)


class Tokens(Objective):
    needs = ("tokens",)


class Typo(Objective):
    needs = ("teachers",)


class NoObjective:
    Config = NamedConfig


def test_a_state_that_is_not_declared_is_refused() -> None:
    class Forgets(Remember):
        def start(self, setup: Setup) -> Mapping[str, Tensor]:
            return {"queue": torch.zeros(1)}

    with pytest.raises(RecipeError, match="start: queue; keeps: queue, filled"):
        Forgets(RememberConfig(name="x")).begin(setup_of(step_recipe()))


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

STAGES = [(0, PATH, 8), (2, PATH, 8), (3, UNTAUGHT, APART)]  # 1 is what the runs on Ray above have


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
