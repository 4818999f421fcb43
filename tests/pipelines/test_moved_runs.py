"""A run is where it is: a copy or a renamed run uses its own files, and paths outside it start where they did."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from test_intact import NEWEST, recipe, write_run

from curation.inputs import InputConfig
from curation.plan import plan
from pairmill.origin import origin_of, with_origin
from pairmill.recipe_file import write_recipe
from pairmill.store import Store
from pipelines.models import _sections, model_folder
from pipelines.opening import opened_run
from pipelines.recipe import CurateRecipe
from training.intact import read_result, verify_training
from tune.journal import Journal, Trial


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a planned run whose recipe names files by relative paths; we are elsewhere."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.chdir(site)
    (site / "urls.txt").write_text("http://a.example/1.jpg\n")
    (site / "words.txt").write_text("forbidden\n")
    (site / "blocked.txt").write_text("ab" * 32 + "\n")
    made = CurateRecipe.checked(
        {
            "run_dir": "run",
            "input": {"path": "urls.txt", "text_column": None},
            "filter": {"listed_words": "words.txt"},
            "download": {"hash_blocklist": "blocked.txt"},
        }
    )
    store = Store("run")
    plan(store, made.input, made.shards)
    write_recipe(store, with_origin(made.to_yaml()))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return site


@pytest.mark.parametrize("how", [shutil.copytree, os.rename])
def test_a_curated_run_is_where_it_is(site: Path, tmp_path: Path, how: Any) -> None:
    how(site / "run", tmp_path / "moved")
    store, made = opened_run(str(tmp_path / "moved"))
    assert store.uri == made.run_dir == str(tmp_path / "moved")


def test_its_paths_start_where_they_did(site: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "more.txt").write_text("cd" * 32 + "\n")
    _, made = opened_run("../site/run")
    assert made.filter.identity()
    assert Path(made.filter.listed_words).read_text() == "forbidden\n"
    assert made.download.policy()["hash_blocklist"] is not None
    os.chdir(tmp_path / "elsewhere")
    _, made = opened_run("../site/run", ["download.hash_blocklist=more.txt"])
    assert made.download.hash_blocklist == str(tmp_path / "elsewhere" / "more.txt")


def test_a_run_whose_folder_is_gone_is_opened_where_we_are(site: Path, tmp_path: Path) -> None:
    os.rename(site, tmp_path / "renamed")
    store, made = opened_run("../renamed/run")
    assert made.run_dir == store.uri == str(tmp_path / "renamed" / "run")
    assert os.getcwd() == str(tmp_path / "elsewhere")


@pytest.mark.parametrize("name", ["plain", "with 'quotes' and \"more\"", "图片", "line\nbreak"])
def test_a_folder_of_any_name_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    text = with_origin("run_dir: run\n")
    assert origin_of(text) == str(tmp_path / name)
    assert text.endswith("\nrun_dir: run\n")


@pytest.mark.parametrize(
    "text", ["", "run_dir: run\n", "# relative paths start in \n", "# relative paths start in [1]\n"]
)
def test_a_recipe_without_a_folder_names_none(text: str) -> None:
    assert origin_of(text) is None


@pytest.mark.parametrize("how", [shutil.copytree, os.rename])
def test_a_trained_run_gives_its_own_checkpoint(tmp_path: Path, how: Any) -> None:
    run = write_run(tmp_path / "run")
    how(run, tmp_path / "moved")
    if run.exists():
        shutil.rmtree(run / NEWEST)  # the copy must not need it
    moved = Store(str(tmp_path / "moved"))
    result = read_result(moved)
    assert result is not None and result["checkpoint"] == str(tmp_path / "moved" / NEWEST)
    with model_folder(str(tmp_path / "moved")) as folder:
        assert folder == tmp_path / "moved" / NEWEST
    assert verify_training(moved) == []


def test_a_result_of_an_earlier_version_gives_its_own_checkpoint_too(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    text = (run / "result.json").read_text()
    (run / "result.json").write_text(text.replace(NEWEST, str(run / NEWEST)))
    os.rename(run, tmp_path / "moved")
    result = read_result(Store(str(tmp_path / "moved")))
    assert result is not None and result["checkpoint"] == str(tmp_path / "moved" / NEWEST)


def test_what_a_run_is_evaluated_on_starts_where_it_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "classes.txt").write_text("cat\n")
    kind = {"name": "zero_shot", "class_names": "classes.txt"}
    datasets = {"a": {"path": "there"}, "b": {"path": "s3://bucket/b"}, "c": {"path": "/c", "kind": kind}}
    datasets["d"] = {"path": "d", "kind": kind | {"class_names": "imagenet"}}
    monkeypatch.chdir(tmp_path)
    given = recipe(tmp_path / "run", evaluate={"datasets": datasets})
    write_recipe(Store(str(tmp_path / "run")), with_origin(given.to_yaml()))
    monkeypatch.chdir("/")
    found = _sections(str(tmp_path / "run"), None)["evaluate"]["datasets"]
    assert [one["path"] for one in found.values()] == [f"{tmp_path}/there", "s3://bucket/b", "/c", f"{tmp_path}/d"]
    assert [found[name]["kind"]["class_names"] for name in "cd"] == [f"{tmp_path}/classes.txt", "imagenet"]


def test_a_trial_of_a_moved_sweep_begins_from_its_own_checkpoint(tmp_path: Path) -> None:
    journal = Journal(Store(str(tmp_path / "sweep")))
    run = write_run(tmp_path / "sweep" / "trials" / "000")
    state = journal.state("000")
    assert state.checkpoint == str(run / NEWEST)
    journal.record(Trial("000", {}))
    journal.record(Trial("001", {}, of="000", begin=state.checkpoint))
    journal.record(Trial("002", {}, begin="s3://bucket/checkpoint"))
    os.rename(tmp_path / "sweep", tmp_path / "moved")
    moved = Journal(Store(str(tmp_path / "moved")))
    begins = [trial.begin for trial in moved.trials()]
    assert begins == [None, str(tmp_path / "moved" / "trials" / "000" / NEWEST), "s3://bucket/checkpoint"]


def test_an_input_is_named_as_it_was_given(site: Path) -> None:
    # The product must not depend on where a list lies.
    _, made = opened_run(str(site / "run"))
    assert made.input == InputConfig(path="urls.txt", text_column=None)
