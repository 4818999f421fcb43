"""`pairmill verify` names the damaged files of every kind of run, and ends with 1 if there is one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import Result
from run_fixture import make_run
from typer.testing import CliRunner

from curation.plan import open_plan
from curation.plan_file import restore_plan
from pairmill.layout import PLAN_COPY, PLAN_JSON
from pairmill.recipe_file import run_recipe, write_recipe
from pairmill.store import shard_file
from pairmill.yaml_text import write_yaml
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
    done, said = _verify(run, "--set-aside", "--yes", "--json", monkeypatch=monkeypatch)
    assert done.exit_code == 1
    found = json.loads(said[0])["damaged"]
    assert {one["name"] for one in found if one["kept"]} == set(names)
    assert [(run / name).exists() for name in names] == [False] * 3
    assert sorted(file.name for file in (run / "damaged").iterdir()) == sorted(name.replace("/", ".") for name in names)
    done, said = _verify(run, "--json", monkeypatch=monkeypatch)
    found = {one["name"]: one["why"] for one in json.loads(said[0])["damaged"]}
    assert found == dict.fromkeys(names[:2], "it has no commit"), "the next job makes them again"


@pytest.fixture
def replanned(tmp_path: Path) -> Path:
    """A run whose list is still there, with a recipe that a command can open."""
    store = make_run(tmp_path)
    restore_plan(store, open_plan(store))
    recipe = run_recipe(store)
    recipe["shards"] = {"rows_per_shard": 7}
    recipe["run_dir"] = store.uri
    recipe = {name: recipe[name] for name in ("run_dir", "input", "shards")}
    write_recipe(store, write_yaml(recipe))
    return tmp_path / "run"


@pytest.mark.parametrize("what", ["data", "manifest", "both"])
def test_a_shard_of_the_plan_is_planned_again(replanned: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    name = shard_file("plan", 1)
    [commit] = (replanned / "plan/_manifest/0000").glob("shard-000001-*")
    before = {file: (replanned / file).read_bytes() for file in (name, str(commit.relative_to(replanned)))}
    for file in before if what == "both" else [list(before)[what == "manifest"]]:
        (replanned / file).write_bytes(b"{")
    done, _ = _verify(replanned, "--set-aside", monkeypatch=monkeypatch)
    assert done.exit_code == 1
    assert (replanned / name).read_bytes() == before[name]
    done, said = _verify(replanned, monkeypatch=monkeypatch)
    assert done.exit_code == 0, said


def test_where_its_list_is_gone_the_shard_stays_and_the_remedy_says_why(
    replanned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (replanned.parent / "input.jsonl").write_text("")
    (replanned / shard_file("plan", 1)).write_bytes(b"{")
    done, said = _verify(replanned, "--set-aside", "--json", monkeypatch=monkeypatch)
    [found] = json.loads(said[-1])["damaged"]
    assert done.exit_code == 1 and "kept" not in found and "restore it from a copy" in found["remedy"]
    assert (replanned / shard_file("plan", 1)).read_bytes() == b"{"


def test_pictures_are_given_up_only_with_yes(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = shard_file("images", 1)
    (run / name).write_bytes(b"PAR1")
    done, said = _verify(run, "--set-aside", monkeypatch=monkeypatch)
    assert done.exit_code == 1 and (run / name).read_bytes() == b"PAR1"
    assert said[0].startswith(f"{name}: ") and "--yes" in said[0]
    _verify(run, "--set-aside", "--yes", monkeypatch=monkeypatch)
    assert not (run / name).exists() and (run / "damaged/images.shard-000001.parquet").exists()


@pytest.mark.parametrize("lost", ["plan.json and copy", "all of plan/"])
@pytest.mark.parametrize("copy", [True, False])
def test_a_run_that_lost_its_plan_is_still_compared(
    run: Path, monkeypatch: pytest.MonkeyPatch, lost: str, copy: bool
) -> None:
    if lost == "all of plan/":
        shutil.rmtree(run / "plan")
    else:
        for name in (PLAN_JSON, PLAN_COPY):
            (run / name).unlink()
    if not copy:
        (run / "recipe-copy.yaml").unlink()
    damaged = shard_file("columns/filter", 2)
    (run / damaged).write_bytes(b"PAR1")
    done, said = _verify(run, "--json", monkeypatch=monkeypatch)
    found = {one["name"]: one["remedy"] for one in json.loads(said[-1])["damaged"]}
    assert {PLAN_JSON, PLAN_COPY, damaged} <= found.keys() and done.exit_code == 1
    assert "restore it" in found[PLAN_JSON] and "restore it" in found[PLAN_COPY]
    assert json.loads(said[-1])["files"] >= len(list(run.glob("*/*.parquet"))) - 6


@pytest.mark.parametrize("name", ["report.json", "report.html"])
@pytest.mark.parametrize("size", [0, 0.5])
def test_a_report_that_is_cut_off_is_made_again(
    run: Path, monkeypatch: pytest.MonkeyPatch, name: str, size: float
) -> None:
    assert CliRunner().invoke(app, ["report", str(run)]).exit_code == 0
    whole = (run / name).read_bytes()
    assert _verify(run, monkeypatch=monkeypatch)[0].exit_code == 0
    (run / name).write_bytes(whole[: int(len(whole) * size)])
    done, said = _verify(run, monkeypatch=monkeypatch)
    assert done.exit_code == 1 and said[0].startswith(f"{name}: ") and "pairmill report" in said[0]
    _verify(run, "--set-aside", monkeypatch=monkeypatch)
    assert not (run / name).exists()
    assert CliRunner().invoke(app, ["report", str(run)]).exit_code == 0
    assert _verify(run, monkeypatch=monkeypatch)[0].exit_code == 0


@pytest.mark.parametrize("content", [b"", b"{}", b'{"run": 1'])
def test_the_report_goes_without_a_damaged_record(run: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    (run / "runs/run-0001.json").write_bytes(content)
    done, said = _verify(run, monkeypatch=monkeypatch)
    assert done.exit_code == 1 and "report goes without" in said[0]
    assert CliRunner().invoke(app, ["report", str(run)]).exit_code == 0
    report = json.loads((run / "report.json").read_bytes())
    assert (report["runs"], report["runs_lost"]) == ([], [1])


def test_an_interrupted_job_with_a_damaged_record_is_not_taken_for_the_one_before(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run / "runs/run-0002.json").write_bytes(b"{")
    assert CliRunner().invoke(app, ["report", str(run)]).exit_code == 0
    assert json.loads((run / "report.json").read_bytes())["complete"] is False


@pytest.mark.parametrize(("change", "why"), [("flip", "same size"), ("cut", "bytes, and"), ("longer", "bytes, and")])
def test_it_says_whether_the_size_is_right(run: Path, monkeypatch: pytest.MonkeyPatch, change: str, why: str) -> None:
    name = shard_file("columns/filter", 2)
    old = (run / name).read_bytes()
    new = {"flip": old[:-9] + bytes([old[-9] ^ 1]) + old[-8:], "cut": old[:-9], "longer": old + b"x"}[change]
    (run / name).write_bytes(new)
    _, said = _verify(run, monkeypatch=monkeypatch)
    assert why in said[0] and (f"{len(new):,}" in said[0]) == (f"{len(old):,}" in said[0]) == (change != "flip")


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
