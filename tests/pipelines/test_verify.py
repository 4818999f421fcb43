"""`pairmill verify` names the damaged files of every kind of run, and ends with 1 if there is one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from run_fixture import make_run
from typer.testing import CliRunner

from curation.plan import open_plan
from curation.plan_file import restore_plan
from pairmill.store import shard_file
from pipelines import output
from pipelines.cli import app


@pytest.fixture
def run(tmp_path: Path) -> Path:
    store = make_run(tmp_path)
    restore_plan(store, open_plan(store))
    return tmp_path / "run"


def _verify(run: Path, *more: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Result, list[str]]:
    said: list[str] = []
    monkeypatch.setattr(output, "say", lambda text, **_: said.append(text))
    return CliRunner().invoke(app, ["verify", str(run), *more]), said


def test_a_sound_run(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done, said = _verify(run, monkeypatch=monkeypatch)
    assert done.exit_code == 0, done.output
    [line] = said
    size = sum(file.stat().st_size for file in run.rglob("*.parquet"))
    assert line == f"{len(list(run.rglob('*.parquet')))} files, {size:,} bytes, 0 damaged"


def test_damaged_files_are_named_and_set_aside(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [shard_file("columns/filter", 2), shard_file("images", 1), shard_file("pairs", 0)]
    for name in names:
        (run / name).write_bytes(b"PAR1")
    done, said = _verify(run, monkeypatch=monkeypatch)
    assert done.exit_code == 1
    assert {line.partition(": ")[0] for line in said[:-1]} == set(names)
    assert all((run / name).exists() for name in names)
    done, said = _verify(run, "--set-aside", "--json", monkeypatch=monkeypatch)
    assert done.exit_code == 1
    found = json.loads(said[0])["damaged"]
    assert {one["name"] for one in found if one["kept"]} == set(names)
    assert [(run / name).exists() for name in names] == [False] * 3
    assert sorted(file.name for file in (run / "damaged").iterdir()) == sorted(name.replace("/", ".") for name in names)
    done, said = _verify(run, "--json", monkeypatch=monkeypatch)
    found = {one["name"]: one["why"] for one in json.loads(said[0])["damaged"]}
    assert found == dict.fromkeys(names[:2], "it has no commit"), "the next job makes them again"


@pytest.mark.parametrize("trial", ["", "trials/trial-0001"])
def test_a_training_run_and_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trial: str) -> None:
    folder = tmp_path / trial
    folder.mkdir(parents=True, exist_ok=True)
    (tmp_path / "recipe.yaml").write_text("a: [")
    (folder / "recipe.yaml").write_text("a: [")
    (folder / "result.json").write_text("{")
    done, said = _verify(tmp_path, monkeypatch=monkeypatch)
    assert done.exit_code == 1, done.output
    prefix = f"{trial}/" if trial else ""
    wanted = {"recipe.yaml", f"{prefix}recipe.yaml", f"{prefix}result.json"}
    assert {line.partition(": ")[0] for line in said[:-1]} == wanted


def test_a_trial_that_has_not_begun_is_not_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, trial in (("trial-0001", "{}"), ("trial-0002", "")):
        (tmp_path / "trials" / name).mkdir(parents=True)
        (tmp_path / "trials" / name / "trial.json").write_text(trial)
    (tmp_path / "recipe.yaml").write_text("a: 1")
    _, said = _verify(tmp_path, monkeypatch=monkeypatch)
    assert [line.partition(": ")[0] for line in said[:-1]] == ["trials/trial-0002/trial.json"]


def test_a_folder_that_holds_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done, _ = _verify(tmp_path, monkeypatch=monkeypatch)
    assert done.exit_code == 2
    assert "must hold a run" in done.stderr
