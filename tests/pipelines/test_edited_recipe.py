"""An edit of a run's recipe.yaml counts in no command; the run heals, and keeps the edited file aside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from run_fixture import make_run
from typer.testing import CliRunner

from curation.plan import open_plan
from curation.plan_file import restore_plan
from pairmill.store import Store
from pipelines import output
from pipelines.cli import app
from pipelines.opening import selected_run

EDITED = b"name: other"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A run whose recipe names another selection since it was made."""
    store = make_run(tmp_path)
    restore_plan(store, open_plan(store))
    text = store.read_bytes("recipe.yaml")
    store.write_bytes("recipe.yaml", text.replace(b"name: default", EDITED))
    assert store.read_bytes("recipe.yaml") != text
    return store


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(output, "say", lambda text, **_: lines.append(text))
    return lines


def test_commands_that_read_a_run_follow_the_recipe_it_was_made_with(store: Store, said: list[str]) -> None:
    assert selected_run(store.uri)[1] == "default"
    done = CliRunner().invoke(app, ["report", store.uri, "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(said[-1])["selection"] == "default"
    done = CliRunner().invoke(app, ["forget", store.uri, "--host", "c.example", "--json"])
    assert done.exit_code == 2 and json.loads(said[-1])["rows_kept"] == 1


def test_verify_names_it_and_sets_the_runs_own_back(store: Store, said: list[str]) -> None:
    before = store.read_bytes("recipe.yaml")
    done = CliRunner().invoke(app, ["verify", store.uri])
    assert done.exit_code == 1
    assert said[0].startswith("recipe.yaml: it was edited or damaged") and "`pairmill curate" in said[0]
    assert store.read_bytes("recipe.yaml") == before
    done = CliRunner().invoke(app, ["verify", store.uri, "--set-aside"])
    assert store.read_bytes("damaged/recipe.yaml") == before
    assert CliRunner().invoke(app, ["verify", store.uri]).exit_code == 0
    assert store.read_bytes("recipe.yaml") == store.read_bytes("recipe-copy.yaml")


def test_where_both_are_damaged_each_command_says_so_in_one_line(store: Store, tmp_path: Path) -> None:
    store.write_bytes("recipe-copy.yaml", b"")
    for command in (
        ["report"],
        ["rows", "--to", str(tmp_path / "x.parquet")],
        ["retry-failed"],
        ["forget", "--uid", "x"],
    ):
        done = CliRunner().invoke(app, [command[0], store.uri, *command[1:]])
        assert (done.exit_code, isinstance(done.exception, SystemExit)) == (2, True), done.exception
        assert "recipe.yaml: it was edited or damaged" in done.stderr
