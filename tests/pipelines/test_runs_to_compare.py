"""Runs that a selection is compared against: what is read of them, when they count as changed, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from run_fixture import make_run
from selected_run import select

from curation.duplicates.semantic_duplicate import PREFIX
from curation.flow import Tables, flow_of
from curation.healing import heal
from curation.selections.config import Section
from curation.selections.selected_tables import selected_table
from curation.selections.steps import Rules
from pairmill.damage import DamagedError, damaged
from pairmill.errors import RecipeError, RunDirError
from pairmill.store import Store
from pipelines.stages.compared_runs import RunToCompare, check_other_runs, runs_to_compare

COLUMNS = {"images": ("sha256",)}


@pytest.fixture
def stores(tmp_path: Path) -> tuple[Store, Store]:
    """A run, and another of the same list in other shards."""
    made = [
        make_run(tmp_path / name, upto="select", rows_per_shard=rows, recaption=False, translate=False)
        for name, rows in (("here", 7), ("there", 11))
    ]
    return made[0], made[1]


def against(store: Store, **keys: Any) -> Rules:
    given = {"dedup": ["exact"], "against": {"first": {"run": store.uri, **keys}}}
    return Rules("new", Section.checked({"selections": {"new": given}}).selections["new"])


def test_the_rows_are_those_of_the_selection_under_names_of_their_own(stores: tuple[Store, Store]) -> None:
    _, there = stores
    run = RunToCompare("first", there, "default", COLUMNS)
    found = pa.concat_tables([run.rows_of(shard, as_shard=100 + shard) for shard in run.shards])
    kept = [
        (f"first:{uid}", 100 + shard, row, sha256)
        for shard in run.shards
        for row, (uid, keep, sha256) in enumerate(
            zip(
                there.load("plan", shard)["uid"].to_pylist(),
                there.load("selections/default", shard)["keep"].to_pylist(),
                there.load("images", shard)["sha256"].to_pylist(),
                strict=True,
            )
        )
        if keep
    ]
    rows = zip(*(found[name].to_pylist() for name in ("uid", "shard", "row", "sha256")), strict=True)
    assert list(rows) == kept and len(kept) == 20
    assert run.rows == 40


def test_what_is_compared_decides_whether_a_run_has_changed(stores: tuple[Store, Store]) -> None:
    _, there = stores

    def content() -> str:
        return RunToCompare("first", there, "default", COLUMNS).content

    before = content()
    entry = there.entry("columns/filter", 0)
    assert entry is not None
    there.commit("columns/filter", 0, "0" * 16, there.load("columns/filter", 0).slice(0, 3), {})
    assert content() == before  # nothing of that table is compared
    there.commit("images", 0, "0" * 16, there.load("images", 0).drop_columns(["sharpness"]), {})
    assert content() != before


def columns_of(store: Store, rules: Rules) -> list[RunToCompare]:
    """As a job finds them."""
    tables = Tables(flow_of({}, "default"), selection="default", keyed=False)
    return runs_to_compare(rules, tables, selected_table(tables, rules).reads)


def test_runs_that_cannot_be_compared_are_refused(stores: tuple[Store, Store], tmp_path: Path) -> None:
    here, there = stores
    (run,) = columns_of(here, against(there))
    assert list(run.shards) == list(range(4))
    (tmp_path / "link").symlink_to(here.path(""))
    for store, keys, message in (
        (Store(str(tmp_path / "nowhere")), {}, "there is no run"),
        (there, {"selection": "defaults"}, "perhaps you mean: default"),
        (here, {}, "which is this run"),
        (Store(str(tmp_path / "link")), {}, "which is this run"),
    ):
        with pytest.raises(RunDirError, match=message):
            check_other_runs([against(store, **keys)], here)
    check_other_runs([against(there)], here)
    there.remove_shard("images", 2)
    with pytest.raises(RunDirError, match="images lacks 1 of 4 shards"):
        columns_of(here, against(there))
    with pytest.raises(RunDirError, match=r"plan has no input\.vector"):
        RunToCompare("first", there, "default", {}, ["input.vector"])
    there.remove_shard("selections/default", 0)
    with pytest.raises(RunDirError, match="selections/default lacks 1 of 4 shards"):
        check_other_runs([against(there)], here)
    for place in ("http://a.example/run", "s3:/bucket/run", ""):
        with pytest.raises(RecipeError):
            Section.checked({"selections": {"new": {"dedup": ["exact"], "against": {"first": place}}}})


@pytest.mark.parametrize(
    ("made_by", "message"),
    [({"compared": "1"}, ""), ({"compared": "2"}, "was made with another model"), ({}, "before pairmill recorded it")],
)
def test_columns_of_models_must_be_made_alike(
    stores: tuple[Store, Store], made_by: dict[str, str], message: str
) -> None:
    for store, says in zip(stores, ({"compared": "1"}, made_by), strict=True):
        for shard in sorted(store.index("plan")):
            uids = store.load("plan", shard)["uid"]
            rows = pa.table({"uid": uids, f"{PREFIX}clip": pa.nulls(len(uids), pa.list_(pa.float16(), 4))})
            store.commit("columns/compared", shard, "0" * 16, rows, {"made_by": says})
    here, there = stores
    columns = {"columns/compared": (f"{PREFIX}clip",)}
    run = RunToCompare("first", there, "default", columns, stages={"columns/compared": ["compared"]})
    if not message:
        run.check_made_alike(here)
        return
    with pytest.raises(RunDirError, match=message):
        run.check_made_alike(here)


def test_a_damaged_file_of_another_run_is_not_made_again(stores: tuple[Store, Store]) -> None:
    here, there = stores
    for name in ("images/shard-000000.parquet", "plan/shard-000000.parquet"):
        error = damaged(there.path(name), "it is cut off")
        with pytest.raises(DamagedError) as raised:
            heal(here, error, yes=True)
        assert raised.value is error
        assert there.exists(name)


def test_manifests_say_by_what_columns_were_made(stores: tuple[Store, Store]) -> None:
    here, _ = stores
    select(here, {"one": {"where": "width > 0"}})
    (first, *others) = here.manifests("selections/one")
    assert first["made_by"].keys() == {"select"} and all(one["made_by"] == first["made_by"] for one in others)
    select(here, {"one": {"where": "width > 1"}})
    assert here.manifests("selections/one")[0]["made_by"] != first["made_by"]
