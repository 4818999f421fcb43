"""Selections in a run: every row is accounted for, and only what changed is made again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from selected_run import make, select, selected_run

from curation.flow import flow_of
from curation.forget.request import request
from curation.forget.takedown import begin, complete, preview
from curation.results.outcome import open_run, read_outcome
from curation.results.report import build_report, write_report
from curation.results.rows import write_rows
from curation.selections.config import SelectionConfig
from curation.selections.steps import Rules
from pairmill.errors import RecipeError
from pairmill.layout import kept_rows
from pairmill.recipe_file import run_recipe
from pairmill.store import Store

SELECTIONS: dict[str, Any] = {
    "base": {"dedup": ["exact"]},
    "long": {"from": "base", "where": "len(caption) > quantile(len(caption), 0.5) or input.id >= 200"},
    "few": {"from": "long", "top": {"by": "input.id", "rows": 6}, "weight": "input.id + 1"},
    "rest": "default & ~few",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return selected_run(tmp_path_factory.mktemp("selected"), SELECTIONS, packed="few")


def loaded(store: Store, name: str) -> pa.Table:
    return pa.concat_tables([store.load(f"selections/{name}", shard) for shard in sorted(store.index("plan"))])


def test_the_product_holds_the_rows_of_its_selection_and_the_report_adds_up(run: Store) -> None:
    report = write_report(run, selection="few")
    assert report["complete"] and report["selection"] == "few"
    assert report["rows_in"] == report["rows_kept"] + report["rows_dropped"]
    stages = {stage["name"]: stage for stage in report["stages"]}
    assert "deduplicate" not in stages
    assert stages["select"]["rows_kept"] == 6 == stages["pack"]["rows_kept"]
    assert stages["select"]["dropped"].keys() == {"duplicate_image", "where", "top"}
    packed = pa.concat_tables([run.load("pairs", part, ["uid"]) for part in sorted(run.index("pairs"))])
    kept = loaded(run, "few")
    assert packed["uid"].to_pylist() == kept["uid"].filter(kept["keep"]).to_pylist()


def test_what_became_of_each_row_is_written_for_the_packed_selection(run: Store, tmp_path: Path) -> None:
    assert write_rows(run, tmp_path / "rows.parquet", selection="few") == 40


@pytest.mark.parametrize("name", [*SELECTIONS, "default"])
def test_any_selection_can_be_looked_at(run: Store, name: str) -> None:
    looked = open_run(run, name)
    assert looked.packs == (name == "few")
    selected = loaded(run, name)
    for shard in looked.plan.shard_numbers():
        rows = read_outcome(looked, shard, ["uid"]).rows
        kept = run.load(f"selections/{name}", shard)
        assert pc.is_null(rows["drop_reason"]).equals(kept["keep"])
        assert rows["drop_reason"].equals(kept["reason"])
    report = build_report(run, selection=name)
    assert report["rows_kept"] == sum(selected["keep"].to_pylist())
    assert sum(map(kept_rows, run.manifests(f"selections/{name}"))) == report["rows_kept"]


def test_reasons_come_from_the_selection_a_row_was_left_out_of(run: Store) -> None:
    base, long, few, rest = (loaded(run, name) for name in SELECTIONS)
    of_base = {u: r for u, r in zip(base["uid"].to_pylist(), base["reason"].to_pylist(), strict=True) if r is not None}
    for one in (long, few):
        reasons = dict(zip(one["uid"].to_pylist(), one["reason"].to_pylist(), strict=True))
        assert all(reasons[uid] == why for uid, why in of_base.items())
    alive = pc.is_null(
        pa.concat_tables([run.load("columns/filter", n) for n in sorted(run.index("plan"))])["drop_reason"]
    )
    kept = {name: set(t["uid"].filter(t["keep"]).to_pylist()) for name, t in (("few", few), ("rest", rest))}
    default = loaded(run, "default")
    assert kept["rest"] == set(default["uid"].filter(default["keep"]).to_pylist()) - kept["few"]
    assert set(rest["reason"].filter(alive).to_pylist()) == {None, "not_selected"}


def test_a_reason_that_no_rule_of_the_recipe_gives_is_not_taken_over(tmp_path: Path) -> None:
    store = selected_run(tmp_path, {})
    kept: dict[str, bool] = {}
    for shard in sorted(store.index("plan")):
        rows = store.load("selections/default", shard)
        low = pc.and_(pc.is_null(rows["reason"]), pc.less(rows["uid"], "8"))
        reason = pc.if_else(low, "language_not_allowed", rows["reason"])
        other = pa.table({"uid": rows["uid"], "keep": pc.is_null(reason), "reason": reason})
        facts = {"stages": {"deduplicate": {"rows_kept": pc.sum(other["keep"]).as_py()}}}
        store.commit("selections/swept", shard, "0" * 16, other, facts)
        kept |= dict(zip(other["uid"].to_pylist(), other["keep"].to_pylist(), strict=True))
    recipe = run_recipe(store)
    make(store, recipe, Rules("own", SelectionConfig.checked({"from": "swept"})))
    own = loaded(store, "own")
    assert dict(zip(own["uid"].to_pylist(), own["keep"].to_pylist(), strict=True)) == kept
    assert "not_selected" in own["reason"].to_pylist()
    dropped = pa.concat_tables([store.load("columns/filter", n) for n in sorted(store.index("plan"))])["drop_reason"]
    assert "language_not_allowed" not in own["reason"].filter(pc.is_null(dropped)).to_pylist()


def test_weights_are_of_the_rows_that_stay(run: Store) -> None:
    few = loaded(run, "few")
    assert few["weight"].type == pa.float32()
    assert few["weight"].is_valid().equals(few["keep"])
    assert sum(m["facts"]["select"]["weight"] for m in run.manifests("selections/few")) == pc.sum(few["weight"]).as_py()
    assert "weight" not in loaded(run, "long").schema.names


def test_only_what_changed_is_made_again(tmp_path: Path) -> None:
    store = selected_run(tmp_path, SELECTIONS)
    shards = sorted(store.index("plan"))
    assert not any(select(store, SELECTIONS).values())
    more = {**SELECTIONS, "new": {"where": "width > 10"}}
    assert select(store, more) == {name: shards if name == "new" else [] for name in more}
    # `few` comes out the same although its base was made again.
    other = {**more, "long": {**SELECTIONS["long"], "where": SELECTIONS["long"]["where"] + " or False"}}
    assert select(store, other) == {name: shards if name == "long" else [] for name in more}
    narrower = {**other, "few": {**SELECTIONS["few"], "top": {"by": "input.id", "rows": 3}}}
    changed = select(store, narrower)
    assert changed["few"] == shards and not changed["long"]
    lost = [n for n in shards if "reason" in store.load("selections/few", n).schema.names]
    assert changed["rest"] and set(changed["rest"]) <= set(lost)
    images = {path.name: path.stat().st_mtime_ns for path in Path(store.path("images")).glob("*.parquet")}
    select(store, SELECTIONS)
    assert {path.name: path.stat().st_mtime_ns for path in Path(store.path("images")).glob("*.parquet")} == images


def test_a_shard_local_selection_follows_its_own_shard_alone(tmp_path: Path) -> None:
    store = selected_run(tmp_path, {"wide": {"where": "width > 10"}, "first": {"top": {"rows": 3}}})
    shard = sorted(store.index("plan"))[0]
    entry = store.index("columns/filter")[shard]
    manifest = store.manifest("columns/filter", shard, entry)
    rows = store.load("columns/filter", shard)
    assert manifest is not None
    facts = {name: manifest[name] for name in ("run", "committed_at", "stages", "seconds", "worked", "facts")}
    caption = pc.if_else(pc.is_valid(rows["caption"]), pc.binary_join_element_wise(rows["caption"], "!", ""), None)
    at = rows.schema.get_field_index("caption")
    store.commit("columns/filter", shard, entry.key, rows.set_column(at, "caption", caption), facts)
    made = select(store, {"wide": {"where": "width > 10"}, "first": {"top": {"rows": 3}}})
    assert made == {"wide": [shard], "first": sorted(store.index("plan"))}


@pytest.mark.parametrize("packed", [None, "few"])
def test_a_forgotten_row_leaves_every_selection(tmp_path: Path, packed: str | None) -> None:
    store = selected_run(tmp_path, SELECTIONS, packed=packed)
    few = loaded(store, "few")
    uid = few["uid"].filter(few["keep"])[0].as_py()
    with store.locked():
        begin(store, preview(store, request(uid=[uid])))
        complete(store)
    for name in (*SELECTIONS, "default"):
        row = loaded(store, name).filter(pc.equal(loaded(store, name)["uid"], uid)).to_pylist()[0]
        assert (row["keep"], row["reason"], row.get("weight")) == (False, "forgotten", None)
    kept = sum(few["keep"].to_pylist()) - 1
    assert sum(map(kept_rows, store.manifests("selections/few"))) == kept
    report = write_report(store, selection=packed or "default")
    assert report["rows_in"] == report["rows_kept"] + report["rows_dropped"]


@pytest.mark.parametrize(
    ("recipe", "rule"),
    [
        ({"pack": {"selection": "fewer"}, "selections": {"few": {}}}, "pack.selection must name a selection"),
        ({"pack": {"selection": "few"}}, "pack.selection must name a selection"),
        ({"pack": {"selection": "all"}, "selections": {"few": {}}}, "pack.selection must name a selection"),
    ],
)
def test_the_product_is_made_from_a_selection_that_there_is(recipe: dict[str, Any], rule: str) -> None:
    with pytest.raises(RecipeError, match=rule):
        flow_of(recipe)


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({"where": "heigth > 3"}, "selections.a.where, column 1: every name must be a column"),
        ({"where": "is_null(image)"}, "selections.a.where, column 9: every name must be a column"),
        ({"where": "is_null(recaptions)"}, "every name must be a column"),
        ({"where": "language > 3"}, "both sides must be of one kind"),
        ({"where": "width"}, "selections.a.where, column 1: this must be true or false"),
        ({"top": {"by": "language", "rows": 3}}, "selections.a.top.by, column 1: this must be a number"),
        ({"quota": {"per": "image_settings", "by": "input.x", "rows": 3}}, "selections.a.quota.by"),
        ({"dedup": ["exact"], "score": "caption"}, "selections.a.score must name a numeric column"),
        ({"weight": "language"}, "selections.a.weight, column 1: this must be a number"),
        ({"uids": "{uids}", "uid_column": "id"}, "selections.a.uid_column must read a column"),
        ({"uids": "{uids}", "uid_column": "input.other"}, "selections.a.uid_column must be a column of texts"),
        ({"uids": "{uids}"}, "`uids` of a selection must name a sorted file of uids"),
    ],
)
def test_a_rule_must_fit_the_columns(run: Store, given: dict[str, Any], rule: str) -> None:
    given = {key: Path("uids.npy") if value == "{uids}" else value for key, value in given.items()}
    flow = flow_of({"selections": {"a": given}})
    planned = run.schema("plan/shard-000000.parquet")
    planned = planned.set(planned.get_field_index("input"), pa.field("input", pa.struct([("other", pa.int64())])))
    with pytest.raises(RecipeError) as raised:
        flow.check(planned)
    assert rule in raised.value.rule
