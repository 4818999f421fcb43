"""Rewriting committed shards in place: what was up to date stays so, and a kill anywhere changes nothing of the end."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from curation.erase import Change, finish_rewrites, rewrite_shard
from curation.schema import set_columns
from curation.shards import commit_shard, outstanding
from curation.table import Table
from pairmill import faults
from pairmill.store import Store

UIDS = ["a", "b", "c"]
NOTHING = pa.nulls(3, pa.string())
DROPS = ("drop_stage", "drop_reason")

IMAGES = Table("images", ("image", "sha256", *DROPS), {}, (), ("download",), volatile=frozenset({"image"}))
FILTER = Table("columns/filter", ("caption", *DROPS), {}, ("images",), ("filter",), ("download",))
SELECTED = Table("selections/default", ("keep", "reason"), {}, ("columns/filter",), ("select",), ("download", "filter"))
RECAPTION = Table(
    "columns/recaption",
    ("text",),
    {"model": "m"},
    ("images", "selections/default"),
    ("recaption",),
    ("download", "filter", "select"),
    drops=False,
)
TABLES = (IMAGES, FILTER, SELECTED, RECAPTION)
DROPPED = {"drop_stage": pa.array(["download", None, None]), "drop_reason": pa.array(["gone", None, None])}


def rows() -> pa.Table:
    columns = {
        "uid": UIDS,
        "image": [b"x" * 100, b"y", b"z"],
        "sha256": ["1", "2", "3"],
        "caption": ["one", "two", "three"],
        "keep": [True, True, True],
        "reason": NOTHING,
        "text": ["says one", "says two", "says three"],
        "drop_stage": NOTHING,
        "drop_reason": NOTHING,
        "_shard": pa.array([0] * 3, pa.int32()),
    }
    return pa.table(columns)


def without(name: str) -> Change:
    """The change that takes a column's value out of row `a`."""

    def change(rows: pa.Table) -> pa.Table:
        mask = pc.equal(rows["uid"], "a")
        kept = pc.if_else(mask, pa.scalar(None, rows[name].type), rows[name])
        found = set_columns(rows, {name: kept})
        return set_columns(found, DROPPED) if set(DROPS) <= set(rows.schema.names) else found

    return change


def loses(rows: pa.Table) -> pa.Table:
    gone = pc.equal(rows["uid"], "a")
    reason = pc.if_else(gone, pa.scalar("gone"), rows["reason"])
    return set_columns(rows, {"keep": pc.is_null(reason), "reason": reason})


CHANGES = {
    "images": without("image"),
    "columns/filter": without("caption"),
    "selections/default": loses,
    "columns/recaption": without("text"),
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(str(tmp_path / "run"))
    commit_shard(store, TABLES, rows(), run=1)
    assert not outstanding(store, TABLES, [0])
    return store


def state(store: Store) -> dict[str, bytes]:
    root = Path(store.uri)
    return {str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}


def test_what_was_up_to_date_stays_so_and_nothing_of_the_row_is_left(store: Store) -> None:
    before = {table.name: store.index(table.name)[0] for table in TABLES}
    made = rewrite_shard(store, TABLES, 0, CHANGES)
    assert not outstanding(store, TABLES, [0])
    assert {name: store.index(name)[0] for name in before} == made
    assert all(made[name].content != before[name].content for name in before)
    held = b"".join(state(store).values())
    assert b"xxxx" not in held
    assert store.load("images", 0)["image"].to_pylist() == [None, b"y", b"z"]
    assert store.load("columns/recaption", 0)["text"].to_pylist() == [None, "says two", "says three"]
    counts = {m: store.manifests(m)[0]["stages"] for m in before}
    assert counts["images"] == {"download": {"rows_in": 3, "rows_kept": 2, "gone": 1}}
    assert counts["selections/default"] == {"select": {"rows_in": 2, "rows_kept": 2}}
    assert counts["columns/recaption"] == {"recaption": {"rows_in": 2, "rows_kept": 2}}
    assert store.names("rewriting") == []


def test_what_is_no_part_of_the_content_leaves_keys_as_they_are(store: Store) -> None:
    def pixels_only(rows: pa.Table) -> pa.Table:
        return set_columns(rows, {"image": pa.array([None, b"y", b"z"])})

    before = {table.name: store.index(table.name) for table in TABLES}
    rewrite_shard(store, TABLES, 0, {"images": pixels_only})
    assert {table.name: store.index(table.name) for table in TABLES} == before
    assert store.load("images", 0)["image"].to_pylist() == [None, b"y", b"z"]
    [manifest] = store.manifests("images")
    assert manifest["bytes"] == Path(store.path("images/shard-000000.parquet")).stat().st_size


def test_a_stale_table_stays_stale(store: Store) -> None:
    now = (*TABLES[:3], replace(RECAPTION, identity={"model": "n"}))
    rewrite_shard(store, now, 0, CHANGES)
    assert [work.fresh.keys() for work in outstanding(store, now, [0])] == [
        {"images", "columns/filter", "selections/default"}
    ]


def test_data_without_a_commit_are_rewritten_too(store: Store) -> None:
    store.retract("images", 0)
    rewrite_shard(store, TABLES, 0, CHANGES)
    assert store.index("images") == {}
    assert store.load("images", 0)["image"].to_pylist() == [None, b"y", b"z"]


POINTS = [
    "rewrite.note.before_write",
    "rewrite.note.after_rename",
    *(f"rewrite.{t.name}.{step}" for t in TABLES for step in ("data.before_rename", "data.after_rename")),
    *(f"rewrite.{t.name}.manifest.{step}" for t in TABLES for step in ("before_rename", "after_rename")),
]


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_killed_anywhere_it_ends_the_same(store: Store, tmp_path: Path, point: str) -> None:
    _kill(store, tmp_path, point)
    finish_rewrites(store)
    for table in TABLES:
        assert len(store.index(table.name)) == 1  # never without a commit
        assert len(store.names(f"{table.name}/_manifest/0000")) == 1
    rewrite_shard(store, TABLES, 0, CHANGES)
    for table in TABLES:
        store.sweep(table.name)
    store.sweep("rewriting")
    expected = Store(str(tmp_path / "expected"))
    commit_shard(expected, TABLES, rows(), run=1)
    rewrite_shard(expected, TABLES, 0, CHANGES)
    assert {n: e for t in TABLES for n, e in store.index(t.name).items()} == {
        n: e for t in TABLES for n, e in expected.index(t.name).items()
    }
    ours, theirs = state(store), state(expected)
    assert ours.keys() == theirs.keys()
    data = [name for name in ours if name.endswith(".parquet")]
    assert {name: ours[name] for name in data} == {name: theirs[name] for name in data}
    assert not outstanding(store, TABLES, [0])


def _kill(store: Store, tmp_path: Path, point: str) -> None:
    """Rewrite the shard in a process of its own, which is killed at a fault point."""
    child = os.fork()
    if not child:
        faults._armed = faults._parse(f"{point}:kill@1", str(tmp_path))
        rewrite_shard(store, TABLES, 0, CHANGES)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -9
