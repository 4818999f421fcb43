import errno
import hashlib
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pairmill import faults, sealed_parquet
from pairmill.damage import DamagedError
from pairmill.store import Entry, Store
from pairmill.table_files import content_digest

ROWS = pa.table({"uid": ["a", "b"], "value": [1, 2], "elapsed_s": [0.1, 0.2]})
OTHER = pa.table({"uid": ["a", "b"], "value": [3, 4], "elapsed_s": [0.1, 0.2]})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "run"))


def test_a_commit_can_be_read_back(store: Store) -> None:
    entry = store.commit("columns/x", 1234, "k1", ROWS, {"run": 3})
    assert store.index("columns/x") == {1234: entry}
    assert store.load("columns/x", 1234).equals(ROWS)
    assert store.load("columns/x", 1234, ["value"]).schema.names == ["value"]
    [manifest] = store.manifests("columns/x")
    data = Path(store.path("columns/x/shard-001234.parquet")).read_bytes()
    assert manifest == {
        **{"shard": 1234, "rows": 2, "bytes": len(data), "key": "k1", "content": entry.content, "run": 3},
        "file": hashlib.blake2b(data, digest_size=16).hexdigest(),
    }


def test_a_new_commit_replaces_the_old(store: Store) -> None:
    store.commit("images", 0, "k1", ROWS, {})
    entry = store.commit("images", 0, "k2", OTHER, {})
    assert store.index("images") == {0: entry}
    assert store.load("images", 0).equals(OTHER)


def test_everything_is_compressed_but_encoded_images(store: Store) -> None:
    file = {"bytes": b"\xff\xd8" * 100, "path": "a.jpg"}
    texts = [{"text": "a cat", "scores": [0.1, 0.2]}]
    rows = pa.table({"uid": ["a"], "image": [file], "captions": pa.array([texts])})
    store.write_table("pairs/x.parquet", rows)
    assert store.read_table("pairs/x.parquet").equals(rows)
    group = pq.read_metadata(store.path("pairs/x.parquet")).row_group(0)
    columns = [group.column(n) for n in range(group.num_columns)]
    assert {c.path_in_schema for c in columns if c.compression != "ZSTD"} == {"image.bytes"}
    assert len(columns) == 5


def test_nothing_is_committed_before_the_first_commit(store: Store) -> None:
    assert store.index("images") == {}
    assert store.manifests("images") == []
    assert store.read_json("plan/plan.json") is None


def test_content_knows_values_and_forgets_the_volatile() -> None:
    other_times = ROWS.set_column(2, "elapsed_s", pa.array([9.0, 9.0]))
    chunked = pa.concat_tables([ROWS.slice(0, 1), ROWS.slice(1, 1)])
    assert content_digest(ROWS, {"elapsed_s"}) == content_digest(other_times, {"elapsed_s"})
    assert content_digest(ROWS) == content_digest(chunked) != content_digest(other_times)
    assert content_digest(ROWS) != content_digest(OTHER)


STEPS = ["data.before_write", "data.before_rename", "data.after_rename", "manifest.before_write"]
STEPS += ["manifest.before_rename", "manifest.after_rename"]

COMMIT = """
import sys, pyarrow as pa
from pairmill.store import Store
rows = pa.table({"uid": ["a", "b"], "value": [3, 4], "elapsed_s": [0.1, 0.2]})
Store(sys.argv[1]).commit("images", 0, "new", rows, {})
"""


@pytest.mark.slow
@pytest.mark.parametrize("before", [None, "old"])
@pytest.mark.parametrize("step", STEPS)
def test_killed_anywhere_a_shard_is_whole_or_not_there(
    store: Store, tmp_path: Path, step: str, before: str | None
) -> None:
    if before:
        store.commit("images", 0, before, ROWS, {})
    armed = {"PAIRMILL_FAULTS": f"commit.images.{step}:kill@1", "PAIRMILL_FAULTS_DIR": str(tmp_path)}
    killed = subprocess.run([sys.executable, "-c", COMMIT, store.uri], env=os.environ | armed, check=False)
    assert killed.returncode == -9
    index = store.index("images")
    if step == "manifest.after_rename":
        assert index[0].key == "new"
        assert store.load("images", 0).equals(OTHER)
    else:
        assert index == {}
    store.sweep("images")
    assert not list(Path(store.uri).rglob("*.partial"))
    store.commit("images", 0, "new", OTHER, {})
    assert store.load("images", 0).equals(OTHER)


def test_a_full_disk_leaves_no_trace(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.commit("images", 1, "k", ROWS, {})
    armed = faults._parse("commit.images.data.before_rename:disk-full@1", str(tmp_path))
    monkeypatch.setattr(faults, "_armed", armed)
    with pytest.raises(OSError, match="space") as error:
        store.commit("images", 0, "k", ROWS, {})
    assert error.value.errno == errno.ENOSPC
    assert set(store.index("images")) == {1}
    assert not list(Path(store.uri).rglob("*.partial"))


def test_removed_shards_are_gone(store: Store) -> None:
    store.commit("pairs", 0, "k", ROWS, {})
    assert Path(store.path("pairs/part-000000.parquet")).exists()
    store.remove_shard("pairs", 0)
    assert store.index("pairs") == {}
    assert not Path(store.path("pairs/part-000000.parquet")).exists()


def test_listing_tells_the_entry(store: Store) -> None:
    entry = store.commit("images", 7, "0123456789abcdef", ROWS, {})
    assert entry == Entry("0123456789abcdef", content_digest(ROWS))


def test_a_store_survives_pickling(store: Store) -> None:
    store.write_json("a.json", {"x": 1})
    assert pickle.loads(pickle.dumps(store)).read_json("a.json") == {"x": 1}


def test_a_folder_of_a_store_is_a_store(store: Store, tmp_path: Path) -> None:
    inner = store.within("texts")
    inner.write_json("a/b.json", {"one": 1})
    assert store.read_json("texts/a/b.json") == Store(inner.uri).read_json("a/b.json") == {"one": 1}
    assert pickle.loads(pickle.dumps(inner)).path("a") == inner.path("a") == store.path("texts/a")
    bucket = Store("s3://bucket/run?region=eu-west-1").within("texts")
    assert bucket.uri == "s3://bucket/run/texts?region=eu-west-1"
    assert (bucket.path("a"), Store(bucket.uri).path("a")) == ("bucket/run/texts/a", "bucket/run/texts/a")


def test_what_only_looks_like_a_commit_is_none(store: Store) -> None:
    entry = store.commit("images", 0, "k1", ROWS, {})
    folder = Path(store.path("images/_manifest/0000"))
    names = [f"shard-000000-k1-{entry.content} (copy).json", "shard-000000-k1.json", "shard-000000-k1-c-conflict.json"]
    for name in names:
        (folder / name).write_text("{}")
    assert store.entry("images", 0) == entry
    assert store.index("images") == {0: entry}
    store.retract("images", 0)
    assert sorted(file.name for file in folder.iterdir()) == sorted(names)


def test_a_page_that_pyarrow_passes_over_loses_no_rows(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed_parquet, "_SMALL_BYTES", 0)
    store.commit("pairs", 0, "0" * 16, pa.table({"n": list(range(20)), "m": ["x"] * 20}), {}, row_group_rows=5)
    file = Path(store.path("pairs/part-000000.parquet"))
    data = bytearray(file.read_bytes())
    data[pq.read_metadata(file).row_group(1).column(0).data_page_offset + 1] ^= 1  # the type of the page
    file.write_bytes(data)
    with pytest.raises(DamagedError, match=r"part-000000\.parquet"):
        list(store.batches("pairs/part-000000.parquet", 5))
