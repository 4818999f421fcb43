"""Damaged files of a sweep: kept aside where its trials tell what they held, else refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pairmill.errors import RunDirError
from pairmill.store import Store
from tune.journal import Journal, Trial
from tune.recipe import SweepRecipe
from tune.space import recipe_at
from tune.sweep import claim

TRAIN: dict[str, Any] = {
    "data": {"path": "there", "batch_size": 2},
    "model": {"architecture": "ViT-B-32"},
    "train": {"steps": 4},
    "evaluate": {"every_steps": 2, "datasets": {"a": {"path": "there"}}},
}


def recipe(run: Path, **train: Any) -> SweepRecipe:
    data = {
        "run_dir": str(run),
        "train": {**TRAIN, **train},
        "space": {"optim.lr": {"grid": [0.1, 0.2]}},
        "search": {"scheduler": "none"},
        "objectives": [{"metric": "a/image_retrieval_recall@1"}],
    }
    return SweepRecipe.checked(data)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A sweep with one trial that has begun."""
    run, given = tmp_path / "run", recipe(tmp_path / "run")
    journal = Journal(Store(str(run)))
    journal.record(Trial("000", {"optim.lr": 0.1}))
    names = {"run_dir": journal.folder("000"), "name": f"{given.name}-000"}
    (run / "trials" / "000" / "recipe.yaml").write_text(recipe_at(given.base, {"optim.lr": 0.1}, **names).to_yaml())
    (run / "recipe.yaml").write_text(given.to_yaml())
    return run


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:100])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def garble(file: Path) -> None:
    file.write_bytes(b"\xff\x00" * 99)


DAMAGE = pytest.mark.parametrize("damage", [cut, empty, garble])


@DAMAGE
def test_a_damaged_recipe_is_known_by_the_trials(run: Path, damage: Callable[[Path], None]) -> None:
    damage(run / "recipe.yaml")
    claim(recipe(run))
    with pytest.raises(RunDirError) as error:
        claim(recipe(run, optim={"weight_decay": 0.7}))
    assert str(run / "recipe.yaml") in str(error.value)


@DAMAGE
def test_without_a_trial_a_damaged_recipe_is_refused_by_name(run: Path, damage: Callable[[Path], None]) -> None:
    (run / "trials" / "000" / "recipe.yaml").unlink()
    damage(run / "recipe.yaml")
    with pytest.raises(RunDirError) as error:
        claim(recipe(run))
    assert str(run / "recipe.yaml") in str(error.value)


@DAMAGE
@pytest.mark.parametrize("name", ["trial.json", "stopped.json", "failed.json"])
def test_a_damaged_file_of_a_trial_is_kept_aside(run: Path, name: str, damage: Callable[[Path], None]) -> None:
    journal = Journal(Store(str(run)))
    journal.stop("000", 2)
    journal.fail("000", "an error with a long text" * 9)
    file = run / "trials" / "000" / name
    damage(file)
    if damage is cut and name == "stopped.json":
        file.write_bytes(b'{"st')  # it is shorter than others
    journal.heal()
    assert not file.exists() and (run / "damaged" / f"trials.000.{name}").exists()
    known = journal.trials()
    assert known == ([] if name == "trial.json" else [Trial("000", {"optim.lr": 0.1})])


@pytest.mark.parametrize("content", ["[]", '{"odd": 1}', "7"])
def test_a_trial_of_another_form_is_kept_aside(run: Path, content: str) -> None:
    file = run / "trials" / "000" / "trial.json"
    file.write_text(content)
    Journal(Store(str(run))).heal()
    assert not file.exists()


def test_whole_files_stay(run: Path) -> None:
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    Journal(Store(str(run))).heal()
    claim(recipe(run))
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before


@DAMAGE
def test_a_damaged_result_of_a_trial_makes_it_unfinished(run: Path, damage: Callable[[Path], None]) -> None:
    file = run / "trials" / "000" / "result.json"
    result = {"checkpoint": "x/step-1", "best_checkpoint": None, "step": 4, "steps": 4, "metrics": {"a": 0.5}}
    file.write_text(json.dumps(result))
    assert Journal(Store(str(run))).state("000").status == "finished"
    damage(file)
    if damage is cut:
        file.write_text(json.dumps(result)[:20])
    assert Journal(Store(str(run))).state("000").status == "unfinished"
