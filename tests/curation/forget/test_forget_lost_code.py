"""A run whose own code is lost can be cleaned, and its results are taken over when the code is back."""

from __future__ import annotations

import importlib
import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import yaml
from forgotten_run import GONE, WANTED, Made, all_rows, others
from traces import of_rows, traces

from curation.flow import Tables, flow_of
from curation.forget.lost import flow_of_what_is_there
from curation.results.report import build_report
from curation.reuse import to_be_made, with_made_from
from curation.schema import set_columns
from curation.shards import commit_shard
from pairmill.errors import RecipeError
from pairmill.recipe_file import write_recipe
from pipelines import output
from pipelines.cli import app
from pipelines.forget import forget, lines

pytestmark = pytest.mark.slow

TABLE = "columns/tagger"
CODE = """
import pyarrow as pa
from curation.stage import Column, Stage

class Tagger(Stage):
    name, segment, pool, after = "tagger", "rewrite", "model", "deduplicate"
    reads = ("caption",)
    adds = (Column("tag", pa.string(), carried=True),)
    drops = ("dull",)

class Reader(Stage):
    name, segment, reads = "reader", "rewrite", ("tag",)
    adds = (Column("letters", pa.int32()),)

    def __call__(self, rows):
        return rows

Tagger.__call__ = Reader.__call__
"""


def written(made: Made, **sections: Any) -> dict[str, Any]:
    """The run's recipe, with other sections."""
    recipe = {**yaml.safe_load(made.store.read_text("recipe.yaml") or ""), **sections}
    write_recipe(made.store, yaml.safe_dump(recipe))
    return recipe


Lose = Callable[[], None]


@pytest.fixture
def tagged(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], Lose]:
    """The run's recipe with a stage whose table is full, and a call that loses its module."""
    code = tmp_path / "code"
    code.mkdir()
    (code / "lost_tagger.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(code))
    recipe = written(made, stages=["lost_tagger:Tagger"])
    tables = Tables(flow_of(recipe), selection="default", keyed=False)
    stage, table = tables.flow.named("tagger"), replace(tables.named(TABLE), upstream=())
    for shard in made.store.index("columns/translate"):
        rows = made.store.load("columns/translate", shard, ["uid", "drop_stage", "drop_reason"])
        uids = rows["uid"].to_pylist()
        alive = pc.is_null(rows["drop_reason"])
        tags = pa.array([f"a tag for {uid}" for uid in uids])
        new = {"tag": pc.if_else(alive, tags, None), "caption": made.store.load("columns/filter", shard)["caption"]}
        rows = with_made_from(stage, set_columns(rows, new), "model 1")
        commit_shard(made.store, [table], set_columns(rows, {"_shard": pa.array([shard] * len(rows), pa.int32())}), 1)

    def lose() -> None:
        (code / "lost_tagger.py").rename(code / "lost_tagger.away")
        monkeypatch.delitem(sys.modules, "lost_tagger", raising=False)
        importlib.invalidate_caches()

    return recipe, lose


def test_a_takedown_needs_no_code_of_a_stage(made: Made, tagged: tuple[dict[str, Any], Lose], tmp_path: Path) -> None:
    recipe, lose = tagged
    before = {name: all_rows(made.store, name) for name in (TABLE, "columns/translate")}
    needles = of_rows(made.folder / "run", GONE)
    assert any(needle.startswith(b"a tag for") for needle in needles)
    lose()
    with pytest.raises(RecipeError):
        flow_of(recipe)

    done = forget(made.store, WANTED, made.copies, sure=True)
    # The fixture has no models either.
    assert (done["rows"], done["lost"]) == (6, ["lost_tagger:Tagger"])
    assert done["recomputed"] == ["columns/recaption", "columns/translate", TABLE]
    assert any("lost_tagger:Tagger" in line for line in lines(done))
    assert traces([made.folder], needles) == {}
    after = {name: all_rows(made.store, name) for name in before}
    for name, rows in before.items():
        assert others(after[name]).equals(others(rows))
    gone = after[TABLE].filter(pc.is_in(after[TABLE]["uid"], pa.array(sorted(GONE))))
    assert (len(gone), gone["tag"].null_count, gone["tagger_made_from"].null_count) == (6, 6, 6)
    assert set(gone["drop_reason"].to_pylist()) == {"forgotten"}

    # The module is back: nothing that stays would be made again, and the report waits for the next job.
    (tmp_path / "code/lost_tagger.away").rename(tmp_path / "code/lost_tagger.py")
    importlib.invalidate_caches()
    stage = flow_of(recipe).named("tagger")
    captions = all_rows(made.store, "columns/filter")["caption"]
    again = to_be_made(stage, set_columns(after[TABLE], {"caption": captions}), "model 1")
    live = pc.is_null(after[TABLE]["drop_reason"])
    assert pc.sum(live).as_py() > 10 and not pc.any(pc.and_(live, again)).as_py()
    assert not build_report(made.store)["complete"]


def test_drops_of_a_lost_stage_are_not_counted_as_rows_of_those_after_it(
    made: Made, tagged: tuple[dict[str, Any], Lose]
) -> None:
    _, lose = tagged
    # As if it had dropped a row that stays: the tables after it show that.
    uid = others(all_rows(made.store, "columns/translate")).filter(pc.field("drop_reason").is_null())["uid"][0].as_py()
    [shard] = [n for n in made.store.index("plan") if uid in made.store.load("plan", n)["uid"].to_pylist()]
    [manifest] = [m for m in made.store.manifests("columns/translate") if m["shard"] == shard]
    rows = made.store.load("columns/translate", shard)
    dull = pc.equal(rows["uid"], uid)
    drops = {"drop_stage": "tagger", "drop_reason": "dull"}
    rows = set_columns(rows, {name: pc.if_else(dull, value, rows[name]) for name, value in drops.items()})
    live = pc.sum(pc.is_null(rows["drop_reason"])).as_py() or 0
    facts = {**manifest, "stages": {"translate": {"rows_in": live, "rows_kept": live}}}
    made.store.commit("columns/translate", shard, manifest["key"], rows, facts, volatile=frozenset())
    lose()
    forget(made.store, WANTED, sure=True)
    after = made.store.load("columns/translate", shard)
    live = pc.sum(pc.is_null(after["drop_reason"])).as_py() or 0
    [manifest] = [m for m in made.store.manifests("columns/translate") if m["shard"] == shard]
    assert manifest["stages"]["translate"] == {"rows_in": live, "rows_kept": live}


def test_the_command_runs_without_the_code(
    made: Made, tagged: tuple[dict[str, Any], Lose], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, lose = tagged
    shown = io.StringIO()
    monkeypatch.setattr(output, "_stdout", shown)
    lose()
    uid = sorted(GONE)[0]
    app(["forget", made.store.uri, "--uid", uid, "--json", "--yes"], standalone_mode=False)
    assert json.loads(shown.getvalue())["lost"] == ["lost_tagger:Tagger"]


@pytest.mark.parametrize(
    ("section", "given", "table"),
    [
        ("recaption", {"model": "m", "engine": {"name": "lost_code:Engine", "beams": 4}}, "columns/recaption"),
        ("translate", {"model": "m", "engine": "lost_code:Engine"}, "columns/translate"),
        ("deduplicate", {"kinds": ["duplicate_image", "lost_code:Kind"]}, "selections"),
        ("filter", {"nsfw_head": "lost_code:Head"}, "columns/filter"),
    ],
)
def test_other_code_of_a_recipe_may_be_lost_too(section: str, given: dict[str, Any], table: str) -> None:
    recipe = {name: {"model": "m"} for name in ("recaption", "translate")}
    found = flow_of_what_is_there({**recipe, section: given})
    assert found.lost and all(path.startswith("lost_code:") for path in found.lost)
    assert found.tables == (table,)
    assert found.flow.order == flow_of(recipe).order


@pytest.mark.parametrize("packed", [None, "own"])
def test_a_kind_of_a_selection_may_be_lost_too(packed: str | None) -> None:
    recipe = {
        "selections": {"own": {"dedup": ["lost_code:Kind", "exact"]}, "rest": "~own"},
        "pack": {"selection": packed},
    }
    found = flow_of_what_is_there(recipe)
    assert found.lost == ("lost_code:Kind",)
    assert [rules.name for rules in found.flow.rules] == ["own", "rest"]
    assert found.flow.selecting.selection == (packed or "default")


def test_a_stage_that_reads_what_is_lost_is_left_out_with_it(
    tagged: tuple[dict[str, Any], Lose], tmp_path: Path
) -> None:
    recipe, _ = tagged
    reader = {**recipe, "stages": ["lost_elsewhere:Tagger", "lost_tagger:Reader"]}
    found = flow_of_what_is_there(reader)
    assert found.lost == ("lost_elsewhere:Tagger", "lost_tagger:Reader")
    assert not {"tagger", "reader"} & set(found.flow.order)


def test_a_recipe_that_is_wrong_in_another_way_is_refused() -> None:
    with pytest.raises(RecipeError, match="size"):
        flow_of_what_is_there({"image": {"size": -1}, "recaption": {"model": "qwen:latest"}})
