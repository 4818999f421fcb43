"""An objective of a user's own (`remembering`), by its import path: in the recipe, a run, a sweep and the docs.

It is trained, stopped, killed, resumed, swept and documented as a built-in one is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from remembering import PATH, Remember, RememberConfig
from test_step import recipe as step_recipe
from test_step import setup_of
from test_train import emoji, losses  # noqa: F401  a fixture
from test_train import recipe as run_recipe
from torch import Tensor

from pairmill.errors import RecipeError
from pairmill.registry import NamedConfig
from training.objectives.config import OBJECTIVES
from training.objectives.declaration import Setup
from training.objectives.reference import objectives_page
from training.recipe import TrainRecipe
from training.train import train
from tune.recipe import SweepRecipe
from tune.space import draw_points, recipe_at

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
        ({"loss": {"objective": f"{__name__}:Typo"}}, "perhaps you mean: teacher"),
        ({"loss": {"objective": f"{__name__}:Forgotten"}}, "must be an import path .* that can be imported"),
        ({"loss": {"objective": f"{__name__}:NoObjective"}}, "must be a subclass of"),
    ],
)
def test_what_cannot_be_is_said_before_any_work(sections: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        TrainRecipe.checked(LEAST | sections)


class Typo(Remember):
    needs = ("teachers",)


class NoObjective:
    Config = NamedConfig


def test_a_state_that_is_not_declared_is_refused() -> None:
    class Forgets(Remember):
        def start(self, setup: Setup) -> Mapping[str, Tensor]:
            return {"queue": torch.zeros(1)}

    with pytest.raises(RecipeError, match="start: queue; keeps: queue, filled"):
        Forgets(RememberConfig(name="x")).begin(setup_of(step_recipe()))
