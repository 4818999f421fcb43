from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from curation.schema import add_seconds, set_columns
from curation.shards import Work, commit_shard, outstanding, read_shard
from curation.stage import Column, Stage
from curation.table import Table
from pairmill.damage import DamagedError
from pairmill.store import Store

NOTHING = pa.nulls(2, pa.string())
PLAN = pa.table({"uid": ["a", "b"], "url": ["u", "v"], "drop_stage": NOTHING, "drop_reason": NOTHING})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(str(tmp_path))
    for shard in range(3):
        store.write_table(f"plan/shard-{shard:06d}.parquet", PLAN)
    return store


def tables(pixels: int = 256, words: int = 3) -> list[Table]:
    return [
        Table("images", ("image", "drop_stage", "drop_reason"), {"size": pixels}, (), ("download",)),
        Table("columns/filter", ("caption",), {"words": words}, ("images",), ("filter",), ("download",)),
    ]


def process(store: Store, work: Work, which: list[Table], image: bytes = b"x", caption: str = "c") -> None:
    rows = read_shard(store, work, {"images": ("image",)})
    if "image" not in rows.schema.names:
        rows = rows.append_column("image", pa.array([image, image]))
    rows = rows.append_column("caption", pa.array([caption, caption]))
    commit_shard(store, which, add_seconds(rows, "filter", 0.5), run=1)


def test_everything_is_outstanding_at_first_and_nothing_after(store: Store) -> None:
    work = outstanding(store, tables(), range(3))
    assert [w.shard for w in work] == [0, 1, 2]
    for one in work:
        process(store, one, tables())
    assert outstanding(store, tables(), range(3)) == []


def test_a_changed_stage_and_what_depends_on_it_is_outstanding_and_nothing_else(store: Store) -> None:
    for one in outstanding(store, tables(), range(3)):
        process(store, one, tables())
    content = store.index("images")[0].content
    assert outstanding(store, tables(words=9), range(1)) == [Work(0, {"images": content})]
    assert outstanding(store, tables(pixels=9), range(1)) == [Work(0, {})]


def test_a_retried_shard_makes_stale_what_was_made_from_it(store: Store) -> None:
    for one in outstanding(store, tables(), range(3)):
        process(store, one, tables())
    # Pixels are not part of a shard's content, their digest is; this table has only the drops to tell it by.
    rows = read_shard(store, Work(1), {}).append_column("image", pa.array([b"x", b"x"]))
    failed = {"drop_stage": pa.array(["download", None]), "drop_reason": pa.array(["timeout", None])}
    commit_shard(store, tables()[:1], set_columns(rows, failed), run=2)
    assert [w.shard for w in outstanding(store, tables(), range(3))] == [1]


def test_fresh_tables_are_not_committed_again(store: Store) -> None:
    process(store, Work(0), tables())
    before = store.manifests("images")[0]["committed_at"]
    content = store.index("images")[0].content
    process(store, Work(0, {"images": content}), tables(words=9))
    assert store.manifests("images")[0]["committed_at"] == before
    assert store.index("columns/filter")[0].key == tables(words=9)[1].key({"images": content})


def test_a_table_does_not_know_what_later_stages_dropped(store: Store) -> None:
    rows = read_shard(store, Work(0), {}).append_column("image", pa.array([b"x", b"y"]))
    rows = rows.append_column("caption", pa.array(["c", "d"]))
    rows = set_columns(rows, {"drop_stage": pa.array(["filter", "download"])})
    commit_shard(store, tables(), set_columns(rows, {"drop_reason": pa.array(["nsfw", "timeout"])}), run=1)
    assert store.load("images", 0)["drop_reason"].to_pylist() == [None, "timeout"]
    [manifest] = store.manifests("images")
    assert manifest["stages"] == {"download": {"rows_in": 2, "rows_kept": 1, "timeout": 1}}
    [manifest] = store.manifests("columns/filter")
    assert manifest["stages"] == {"filter": {"rows_in": 1, "rows_kept": 0, "nsfw": 1}}


def test_a_manifest_counts_rows_and_seconds(store: Store) -> None:
    process(store, Work(0), tables())
    [manifest] = store.manifests("columns/filter")
    assert manifest["stages"] == {"filter": {"rows_in": 2, "rows_kept": 2}}
    assert manifest["seconds"] == {"filter": 0.5}


class Scores(Stage):
    name, segment, pool = "scores", "score", "model"
    adds = (Column("score", pa.float32()),)


class FinerScores(Scores):
    adds = (Column("score", pa.float64()),)


def test_results_of_another_type_are_not_kept_but_known_to_be_there(store: Store) -> None:
    table = Table("columns/scores", ("score", "scores_made_from"), {}, (), (), drops=False, makers=(Scores(None),))
    rows = pa.table({"uid": ["a", "b"], "score": pa.array([0.5, None], pa.float32())})
    store.write_table(
        "columns/scores/shard-000000.parquet", rows.append_column("scores_made_from", pa.array([9, None], pa.uint64()))
    )
    same = read_shard(store, Work(0), {}, earlier=[table])
    assert (same["score"].to_pylist(), same["scores_made_from"].to_pylist()) == ([0.5, None], [9, None])
    finer = read_shard(store, Work(0), {}, earlier=[replace(table, makers=(FinerScores(None),))])
    # So the job asks before it makes them again (`pipelines.consent`).
    assert finer["_earlier_columns/scores"].to_pylist() == [True, True]
    assert finer["scores_made_from"].to_pylist() == [0, None]
    assert finer["score"].type == pa.float64() and finer["score"].null_count == 2


class Fallible(Scores):
    adds = (*Scores.adds, Column("trouble", pa.string()))

    def unfinished(self, rows: pa.Table) -> pa.ChunkedArray:
        return pc.is_valid(rows["trouble"])


class FinerFallible(Fallible):
    adds = (*FinerScores.adds, *Fallible.adds[1:])


def test_unfinished_rows_of_another_type_do_not_count_as_made(store: Store) -> None:
    columns = ("score", "trouble", "scores_made_from")
    table = Table("columns/scores", columns, {}, (), (), drops=False, makers=(FinerFallible(None),))
    rows = {"uid": ["a", "b"], "score": pa.array([0.5, None], pa.float32()), "trouble": [None, "out of memory"]}
    rows |= {"scores_made_from": pa.array([9, 9], pa.uint64())}
    store.write_table("columns/scores/shard-000000.parquet", pa.table(rows))
    assert read_shard(store, Work(0), {}, earlier=[table])["scores_made_from"].to_pylist() == [0, None]


def test_a_given_table_whose_commit_was_lost_is_reported(store: Store) -> None:
    for one in outstanding(store, tables(), range(3)):
        process(store, one, tables())
    store.retract("images", 1)
    with pytest.raises(DamagedError, match=r"images/shard-000001\.parquet: it has no commit"):
        outstanding(store, tables()[1:], range(3), ["images"])


@pytest.mark.parametrize("table", ["plan", "images"])
def test_a_committed_shard_whose_data_were_lost_is_reported(store: Store, table: str) -> None:
    for one in outstanding(store, tables(), range(3)):
        process(store, one, tables())
    Path(store.path(f"{table}/shard-000001.parquet")).unlink()
    with pytest.raises(DamagedError, match=f"{table}/shard-000001.parquet: it is gone"):
        read_shard(store, Work(1, {"images": store.index("images")[1].content}), {"images": ("image",)})
