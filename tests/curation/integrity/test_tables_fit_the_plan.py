"""A table has the rows of its plan, in their order, and says of them what its manifest says."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from damage import RunUpto, rewrite, swap, without
from run_fixture import retry_shard, shard_with

from curation.results.report import build_report
from curation.schema import DROPS, set_columns
from curation.shards import Work, read_shard
from pairmill.damage import DamagedError
from pairmill.errors import IntegrityError

TABLES = [
    *("images", "columns/policy", "columns/filter", "selections/default"),
    *("columns/recaption", "columns/translate"),
]


@pytest.mark.parametrize("table", TABLES)
def test_a_table_that_lost_a_row_is_noticed(table: str, run_upto: RunUpto) -> None:
    store = run_upto("pack")
    rewrite(store, table, 2, without(3))
    with pytest.raises(DamagedError, match=f"{table}/shard-000002.parquet: it has .* in its manifest"):
        build_report(store)


@pytest.mark.parametrize("table", TABLES)
def test_a_shard_that_has_the_file_of_another_is_noticed(table: str, run_upto: RunUpto) -> None:
    store = run_upto("pack")
    swap(store, table, 0, 1)
    with pytest.raises(DamagedError, match=f"{table}/shard-000000.parquet: it holds other rows than the plan"):
        build_report(store)


@pytest.mark.parametrize("table", ["images", "selections/default"])
def test_a_shard_that_has_the_file_of_another_is_not_worked_on(table: str, run_upto: RunUpto) -> None:
    store = run_upto("select")
    swap(store, table, 0, 1)
    column = {"images": "image", "selections/default": "keep"}[table]
    work = Work(0, {table: store.index(table)[0].content})
    with pytest.raises(DamagedError, match=f"{table}/shard-000000.parquet: it holds other rows than the plan"):
        read_shard(store, work, {table: (column,)})


def test_rows_in_another_order_are_not_worked_on(run_upto: RunUpto) -> None:
    store = run_upto("images")
    rewrite(store, "images", 1, lambda rows: rows.take(pa.array(range(len(rows) - 1, -1, -1))))
    with pytest.raises(DamagedError, match=r"images/shard-000001\.parquet"):
        read_shard(store, Work(1, {"images": store.index("images")[1].content}), {"images": ("image",)})


def _revived(rows: pa.Table) -> pa.Table:
    nsfw = pc.fill_null(pc.equal(rows["drop_reason"], "nsfw"), False)
    return set_columns(rows, {name: pc.if_else(nsfw, None, rows[name]) for name in ("drop_stage", "drop_reason")})


@pytest.mark.parametrize("upto", ["filter", "pack"])
def test_rows_that_came_back_to_life_are_noticed(upto: str, run_upto: RunUpto) -> None:
    store = run_upto(upto)
    shard = shard_with(store, "nsfw")
    rewrite(store, "columns/filter", shard, _revived)
    with pytest.raises(IntegrityError, match=f"columns/filter shard {shard}.*nsfw"):
        build_report(store)


@pytest.mark.parametrize("upto", ["filter", "pack"])
def test_a_manifest_that_says_another_number_is_noticed(upto: str, run_upto: RunUpto) -> None:
    store = run_upto(upto)
    manifest = store.manifests("images")[2]
    manifest["stages"]["download"]["rows_kept"] += 1
    store.commit("images", 2, "k", store.load("images", 2), manifest)
    with pytest.raises(IntegrityError, match=r"images shard 2.*download"):
        build_report(store)


def test_in_a_run_that_ended_well_no_table_is_made_from_rows_that_changed_since(run_upto: RunUpto) -> None:
    store = run_upto("pack")
    shard = shard_with(store, "timeout")
    retry_shard(store, shard)
    with pytest.raises(IntegrityError, match=f"columns/policy shard {shard}.* follow"):
        build_report(store)


def test_texts_that_were_made_while_a_dropped_row_was_live_are_noticed(run_upto: RunUpto) -> None:
    store = run_upto("pack")
    shard = shard_with(store, "same-x")
    rewrite(
        store,
        "columns/recaption",
        shard,
        lambda rows: set_columns(rows, {name: pa.nulls(len(rows), pa.string()) for name in DROPS}),
    )
    with pytest.raises(IntegrityError, match=f"columns/recaption shard {shard}.* follow"):
        build_report(store)
