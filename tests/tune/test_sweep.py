"""A sweep on Ray: trials that end well, one that fails, the report; what is wrong before anything starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from pairmill.errors import RecipeError, RunDirError
from pipelines.sweep import load_sweep
from tune.check import check, trials_at_a_time
from tune.recipe import SweepRecipe
from tune.sweep import claim, sweep

DRAWINGS = "samples/emoji-google/pairs.parquet"
RECIPES = Path("pipelines/recipes")

TRAIN: dict[str, Any] = {
    "data": {"path": DRAWINGS, "batch_size": 16, "bundle_rows": 32, "texts": [[{"language": "en"}]]},
    "model": {"architecture": "tests/pairmill/towers/configs/vit.json"},
    "optim": {"lr": 1e-3, "warmup_steps": 0},
    "train": {"steps": 3, "precision": "fp32"},
    "compute": {"workers": 1, "cpus_per_worker": 0.5, "threads": 1},
    "evaluate": {"every_steps": 1, "max_images": 32, "datasets": {"google": {"path": DRAWINGS}}},
}


def recipe(run_dir: Path, **sections: Any) -> SweepRecipe:
    base: dict[str, Any] = {
        "run_dir": str(run_dir),
        "train": TRAIN,
        "space": {"optim.lr": {"grid": [1e-3, 1e30]}},
        # The trial that diverges does so in its second step: on its way to the first rung.
        "search": {"scheduler": "asha", "grace_steps": 2},
        "objectives": [{"metric": "google/image_retrieval_recall@10"}],
        "repeat": {"best": 1, "seeds": 1},
    }
    return SweepRecipe.checked({**base, **sections})


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_a_sweep_reports_every_trial_and_goes_on_where_it_was(tmp_path: Path) -> None:
    report = sweep(recipe(tmp_path), quiet=True)
    assert [(t["id"], t["status"], t["steps"]) for t in report["trials"]] == [
        ("000", "finished", 3),
        ("000-seed1", "finished", 3),
        ("001", "failed", 1),
    ]
    assert "the loss of step" in report["trials"][2]["error"]
    assert report["finished"] and report["best"]["trial"] == "000" and report["ranking"][0]["runs"] == 2
    assert yaml.safe_load((tmp_path / "best-recipe.yaml").read_text())["optim"]["lr"] == 1e-3
    written = {p: p.stat().st_mtime_ns for p in tmp_path.glob("trials/*/metrics.jsonl")}
    again = sweep(recipe(tmp_path), quiet=True)
    assert [t["id"] for t in again["trials"]] == [t["id"] for t in report["trials"]]
    assert again["ranking"] == report["ranking"]
    assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("trials/*/metrics.jsonl")} == written, "nothing ran again"
    with pytest.raises(RunDirError, match="search"):
        sweep(recipe(tmp_path, search={"scheduler": "none"}), quiet=True)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("sweep-*.yaml")), ids=lambda p: p.name)
def test_shipped_sweeps_are_valid(path: Path) -> None:
    loaded = load_sweep(path)
    assert SweepRecipe.checked(yaml.safe_load(loaded.to_yaml())) == loaded


def test_keys_of_the_space_can_be_overridden_whole() -> None:
    loaded = load_sweep(RECIPES / "sweep-demo.yaml", ["space.optim.lr={grid: [1, 2]}", "train.train.steps=7"])
    assert loaded.space["optim.lr"].grid == (1, 2)
    assert loaded.base["train"]["steps"] == 7
    assert "loss.objective" in loaded.space


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["space.optim.lrr={grid: [1]}"], r"optim\.lr"),
        (["space.optim.lr={uniform: [1, 1]}"], "below its highest"),
        (["space.optim.lr={grid: [quick]}"], "number"),
        (["objectives=[{metric: gogle/x}]"], "google"),
        (["objectives=[{metric: samples_per_second}]"], "stopped and ranked"),
        (["train.evaluate.every_steps=null"], "every_steps"),
        (["train.train.steps=null", "train.train.epochs=1"], r"train\.train\.steps must give"),
        (["search.method=pbt"], "segment_steps"),
        (["run_dir=s3://bucket/sweep"], "local or shared"),
        (["selections={a: [x]}"], "selections.a must"),
    ],
)
def test_a_recipe_that_is_wrong_is_refused(overrides: list[str], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        load_sweep(RECIPES / "sweep-demo.yaml", overrides)


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"space": {"compute.workers": {"grid": [1, 64]}}}, r"compute\.workers 64"),
        ({"train": {**TRAIN, "data": {**TRAIN["data"], "path": "no/such/folder"}}}, "no/such/folder"),
        (
            {
                "space": {"temperature.init": {"uniform": [0.02, 0.1]}},
                "search": {"method": "pbt", "trials": 4, "segment_steps": 1},
            },
            "learnt",
        ),
        (
            {
                "space": {"data.batch_size": {"choice": [8, 16]}},
                "search": {"method": "pbt", "trials": 4, "segment_steps": 1},
            },
            r"data\.batch_size",
        ),
    ],
)
def test_what_cannot_work_is_said_before_ray_starts(sections: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=said) as refused:
        check(recipe(tmp_path, **sections))
    assert getattr(refused.value, "exit_code", None) == 2


def test_trials_at_a_time_fill_the_cluster(tmp_path: Path) -> None:
    wanted = recipe(tmp_path)  # half a core for the worker, half a core for its reader
    assert trials_at_a_time(wanted, {"CPU": 8.0}) == 8
    assert trials_at_a_time(recipe(tmp_path, search={"concurrent": 3}), {"CPU": 8.0}) == 3
    larger = recipe(tmp_path, space={"compute.workers": {"grid": [1, 4]}})
    assert trials_at_a_time(larger, {"CPU": 8.0}) == 3, "2.5 cores, the largest of the space"
    with pytest.raises(RecipeError, match=r"search\.concurrent: 9; it holds 8"):
        trials_at_a_time(recipe(tmp_path, search={"concurrent": 9}), {"CPU": 8.0})


def test_a_sweep_can_be_asked_only_to_go_on(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match="--resume"):
        claim(recipe(tmp_path), resume=True)
    claim(recipe(tmp_path))


def test_a_base_recipe_lies_beside_its_sweep(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(json.dumps(TRAIN | {"run_dir": "another"}))
    small = {
        "run_dir": "r",
        "base": "base.yaml",
        "train": {"optim": {"lr": 0.5}},
        "space": {"temperature.init": {"grid": [0.1]}},
        "objectives": [{"metric": "google/image_retrieval_recall@10"}],
    }
    (tmp_path / "sweep.yaml").write_text(json.dumps(small))
    loaded = load_sweep(tmp_path / "sweep.yaml")
    assert loaded.base["optim"] == loaded.base["optim"] | {"lr": 0.5, "warmup_steps": 0}
