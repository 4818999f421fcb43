"""A user's own code is part of what a table was made from: editing it makes that table stale, and no other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from curation.flow import Tables
from pipelines.recipe import CurateRecipe

STAGE = """
import pyarrow as pa
from curation.stage import Column, Stage

class Own(Stage):
    name, segment = "own", "score"
    reads = ("entropy",)
    adds = (Column("own", pa.float32()),)

    def identity(self):
        return "the same whatever it does"

    def __call__(self, rows):
        return rows
"""
KIND = """
import pyarrow as pa
from curation.duplicates.equal_values import EqualValues

class Own(EqualValues):
    name, strength = "own", 1
    reads = ("width",)
    columns = pa.schema([("width", pa.int32())])
"""
CAPTIONER = """
from curation.engines.model_files import Checkpoint
from pairmill.registry import NamedConfig

class Own:
    Config, rows_per_call = NamedConfig, 1

    @classmethod
    def check(cls, config, section):
        return Checkpoint(source=section.model, commit=None, revision="1")

    @classmethod
    def load(cls, config, section, checkpoint):
        raise NotImplementedError
"""
HEAD = """
import pyarrow as pa
from pairmill.registry import NamedConfig

class Own:
    Config, input = NamedConfig, "pixels"
    columns = pa.schema([("nsfw", pa.float32())])

    @classmethod
    def revision(cls, config):
        return "1"

    @classmethod
    def load(cls, config):
        raise NotImplementedError
"""
FUNCTION = """
def Own(rows):
    return [True] * len(rows)
"""


def keys_of(sections: dict[str, Any]) -> dict[str, str]:
    recipe = CurateRecipe.checked({"run_dir": "run", "input": {"path": "urls.parquet"}, **sections})
    tables = Tables(recipe.flow(), selection="default")
    return {table.name: json.dumps([table.identity, table.upstream]) for table in tables.all}


def edited(folder: Path, module: str, source: str, sections: dict[str, Any]) -> set[str]:
    """The tables that have another key after an edit of the module's file."""
    file = folder / f"{module}.py"
    file.write_text(source)
    before = keys_of(sections)
    assert keys_of(sections) == before
    file.write_text(source + "\n# another version\n")
    after = keys_of(sections)
    return {name for name in before | after if before.get(name) != after.get(name)}


@pytest.mark.parametrize(
    ("name", "source", "sections", "stale"),
    [
        ("stage", STAGE, {"stages": ["{}:Own"]}, "columns/own"),
        ("kind", KIND, {"deduplicate": {"kinds": ["{}:Own"]}}, "selections/default"),
        ("captioner", CAPTIONER, {"recaption": {"model": "m", "engine": {"name": "{}:Own"}}}, "columns/recaption"),
        ("translator", CAPTIONER, {"translate": {"model": "m", "engine": "{}:Own"}}, "columns/translate"),
        ("head", HEAD, {"filter": {"nsfw_max": 0.5, "nsfw_head": "{}:Own"}}, "columns/filter"),
        ("function", FUNCTION, {"filter": {"callables": ["{}:Own"]}}, "columns/filter"),
    ],
)
@pytest.mark.parametrize("way", ["defined", "imported"])
def test_editing_own_code_makes_its_table_stale_and_no_other(
    way: str,
    name: str,
    source: str,
    sections: dict[str, Any],
    stale: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    module = named = f"own_{name}_{way}"
    if way == "imported":
        named = f"{module}_by"
        (tmp_path / f"{named}.py").write_text(f"from {module} import Own")
    chosen = json.loads(json.dumps(sections).replace("{}:", f"{named}:"))
    assert edited(tmp_path, module, source, chosen) == {stale}
