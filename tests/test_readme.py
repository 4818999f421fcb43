"""The README's shell blocks name commands, recipes and keys that exist; benchmarks/readme.py runs the blocks whole."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.recipe import CurateRecipe, load_recipe, parse_section
from pipelines.sweep import load_sweep
from training.evaluate.config import EvaluateConfig
from training.recipe import TrainRecipe

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```console\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
LINES = [shlex.split(line, comments=True) for block in BLOCKS for line in block.splitlines()]
COMMANDS = [words[1:] for words in LINES if words and words[0] == "pairmill"]

#: Made by the commands before them.
MADE = {"runs/demo-sweep/best-recipe.yaml"}


def test_there_are_commands() -> None:
    assert {words[0] for words in COMMANDS} >= {"curate", "train", "evaluate", "export", "sweep"}


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_is_one_and_its_recipe_is_valid(words: list[str]) -> None:
    said = CliRunner().invoke(app, [words[0], "--help"])
    assert said.exit_code == 0, f"{words[0]} is no command"
    for option in (word for word in words if word.startswith("--")):
        assert option in re.sub(r"\x1b\[[0-9;]*m", "", said.output)
    overrides = [word for word in words[2:] if re.match(r"[a-z_.]+=", word)]
    kind = words[1] if words[0] == "submit" else words[0]
    recipe = next((word for word in words if word.endswith(".yaml")), None)
    if recipe in MADE or recipe is None:
        parse_section(EvaluateConfig, "evaluate", {}, [o for o in overrides if o.startswith("evaluate.")])
    elif kind == "sweep":
        load_sweep(ROOT / recipe, overrides)
    else:
        load_recipe(ROOT / recipe, overrides, {"curate": CurateRecipe, "train": TrainRecipe}[kind])


def test_make_targets_exist() -> None:
    targets = {words[1] for words in LINES if words and words[0] == "make"}
    made = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    assert targets and targets <= made


def rows(page: str) -> list[str]:
    """The rows of the tables of figures, in order."""
    return re.findall(r"^\| .* \| .* \| .*json`.* \|$", (ROOT / page).read_text(), re.M)


def test_the_readme_has_the_ten_figures_that_matter_as_docs_figures_has_them() -> None:
    assert len(rows("README.md")) == 10
    assert set(rows("README.md")) <= set(rows("docs/figures.md"))


def test_a_figure_names_a_command_and_a_result_that_are_there() -> None:
    for row in rows("docs/figures.md"):
        command = row.split(" | ")[-1]
        for script in re.findall(r"(?:benchmarks|samples/training)/\w+\.py", command):
            assert (ROOT / script).is_file(), script
        for result in re.findall(r"`(\S+\.json)`", command):
            folder = ROOT if "/" in result else ROOT / "benchmarks" / "results"
            assert (folder / result).is_file(), result
        for asked, result in re.findall(r"`(python benchmarks/[^`]+)`, `(\w+\.json)`", command):
            stored = json.loads((ROOT / "benchmarks" / "results" / result).read_text())
            assert asked == stored["command"], result
