"""Where the relative paths of `pairmill select` start: the command's in the user's folder, a run's in its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pairmill.errors import RecipeError
from pairmill.store import Store
from pipelines.recipe import CurateRecipe
from pipelines.selecting import load_selections, rules_to_make

RULES: dict[str, Any] = {"few": {"uids": "few.npy", "balance": {"metadata": "lists/m.json", "t": 3}}}


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Of the user, and of the run's recipe."""
    user, run = tmp_path / "user", tmp_path / "run"
    for folder in (user, run):
        folder.mkdir()
    (user / "more.yaml").write_text(json.dumps({"selections": RULES}))
    return user, run


def given(user: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> dict[str, Any]:
    monkeypatch.chdir(user)
    return load_selections(Path("more.yaml"), overrides)


def test_files_of_the_command_are_those_of_the_user_s_folder(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    user, _ = folders
    few = given(user, monkeypatch)["few"]
    assert few["uids"] == str(user / "few.npy")
    assert few["balance"] == {"metadata": str(user / "lists/m.json"), "t": 3}
    few = given(user, monkeypatch, "selections.few.balance.metadata=../other.json")["few"]
    assert few["balance"]["metadata"] == str(user.parent / "other.json")


def test_a_run_s_own_selection_is_the_same_wherever_its_paths_start(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    user, run = folders
    store = Store(str(run / "out"))
    there = {"few": {"uids": "../user/few.npy", "balance": {"metadata": "../user/lists/m.json", "t": 3}}}
    of_user = given(user, monkeypatch)
    monkeypatch.chdir(run)  # as opened_run does it

    def recipe(selections: dict[str, Any]) -> CurateRecipe:
        return CurateRecipe.checked({"input": {"path": "a.csv"}, "run_dir": store.uri, "selections": selections})

    assert [one.name for one in rules_to_make(recipe(there), of_user, store)] == ["few"]
    for elsewhere in (
        RULES,
        {"few": {**there["few"], "uids": "few.npy"}},
        {"few": {**there["few"], "balance": {"metadata": "m.json", "t": 3}}},
        {"few": {**there["few"], "balance": {**there["few"]["balance"], "t": 4}}},
    ):
        with pytest.raises(RecipeError, match=r"selections\.few must be as in the run's own recipe"):
            rules_to_make(recipe(elsewhere), of_user, store)
