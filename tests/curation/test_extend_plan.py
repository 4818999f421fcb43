"""Lists that are added to a planned run: one list cut in pieces is the list, whole, and nothing that is there moves."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation import common_texts, visiting
from curation.common_texts import common_texts_table, mark_common_texts
from curation.inputs import InputConfig
from curation.plan import ShardsConfig, extend, input_type, plan, remove_unplanned
from curation.plan_file import Plan
from pairmill import faults
from pairmill.errors import InputError, RunDirError
from pairmill.faults import InjectedFault
from pairmill.store import Store

Row = tuple[str, str]
MOST = 2


def write(path: Path, rows: list[Row], **more: list[Any]) -> str:
    pq.write_table(pa.table({"url": [u for u, _ in rows], "text": [t for _, t in rows], **more}), path)
    return str(path)


def start(store: Store, path: str, rows_per_shard: int = 10) -> Plan:
    return plan(store, InputConfig(path=path), ShardsConfig(rows_per_shard=rows_per_shard))


def add(store: Store, *paths: str, rows_per_shard: int = 10, **inputs: str | None) -> tuple[Plan, list[str]]:
    given_inputs = InputConfig(path="gone", **inputs)
    return extend(store, paths, given_inputs, ShardsConfig(rows_per_shard=rows_per_shard))


def by_index(store: Store, made: Plan, *, common: bool = False) -> list[dict[str, Any]]:
    tables = []
    for shard in made.shard_numbers():
        rows = store.load("plan", shard, ["uid", "index", "url", "alt", "drop_stage", "drop_reason"])
        if common:
            marks = store.load(common_texts_table(MOST), shard)
            assert marks["uid"].equals(rows["uid"])
            rows = rows.append_column("common", marks["text_is_common"])
        tables.append(rows)
    return pa.concat_tables(tables).sort_by("index").to_pylist()


def files(store: Store, folder: str) -> dict[str, tuple[bytes, int]]:
    found = (f for f in sorted(Path(store.path(folder)).rglob("*")) if f.is_file())
    return {str(f.relative_to(store.path(folder))): (f.read_bytes(), f.stat().st_mtime_ns) for f in found}


@pytest.mark.slow
@given(
    rows=st.lists(
        st.tuples(st.sampled_from("abcdefg"), st.sampled_from(["", "x", "y ", "Y"])), min_size=2, max_size=40
    ),
    cuts=st.sets(st.integers(1, 39), max_size=4),
    per_shard=st.integers(2, 12),
    bucket_bytes=st.sampled_from([300, 10**9]),
    bucket_rows=st.sampled_from([3, 10**6]),
)
@settings(max_examples=25, deadline=None)
def test_any_split_gives_the_rows_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[Row],
    cuts: set[int],
    per_shard: int,
    bucket_bytes: int,
    bucket_rows: int,
) -> None:
    folder = tmp_path_factory.mktemp("split")
    bounds = [0, *sorted(c for c in cuts if c < len(rows)), len(rows)]
    # `piece` makes files of equal rows unequal: the same file again would add nothing.
    pieces = [
        write(folder / f"{at}.parquet", rows[low:high], piece=[at] * (high - low))
        for at, (low, high) in enumerate(pairwise(bounds))
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(visiting, "_BUCKET_BYTES", bucket_bytes)
        patch.setattr(common_texts, "_BUCKET_ROWS", bucket_rows)
        patch.setattr(common_texts, "_GATHERED_ROWS", 7)
        parts = Store(str(folder / "parts"))
        made = start(parts, pieces[0], per_shard)
        mark_common_texts(parts, made, MOST)
        for piece in pieces[1:]:
            before = files(parts, "plan")
            made, added = add(parts, piece, rows_per_shard=per_shard)
            assert added == [piece]
            totals = {(name, before[name]) for name in ("plan.json", "plan-copy.json")}
            assert before.items() - totals <= files(parts, "plan").items()
            mark_common_texts(parts, made, MOST)
        whole = Store(str(folder / "whole"))
        at_once = start(whole, write(folder / "all.parquet", rows, piece=[0] * len(rows)), per_shard)
        mark_common_texts(whole, at_once, MOST)

    found = by_index(parts, made, common=True)
    assert found == by_index(whole, at_once, common=True)
    # And both are right.
    first: dict[Row, int] = {}
    for at, row in enumerate(rows):
        first.setdefault(row, at)
    times = Counter(" ".join(alt.split()).casefold() for _, alt in first)
    assert [r["index"] for r in found] == list(range(len(rows)))
    for at, (row, planned) in enumerate(zip(rows, found, strict=True)):
        lives = first[row] == at
        assert (planned["url"], planned["alt"]) == row
        assert planned["drop_reason"] == (None if lives else "duplicate_input")
        assert planned["common"] == (times[" ".join(row[1].split()).casefold()] > MOST if lives else None)
    assert [one.rows for one in made.inputs] == [high - low for low, high in pairwise(bounds)]
    assert (made.rows, made.shards) == (len(rows), sum(-(-one.rows // per_shard) for one in made.inputs))


ROWS = [(f"http://host{i % 3}/{i}", f"text {i % 7}") for i in range(60)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(str(tmp_path / "run"))
    start(store, write(tmp_path / "a.parquet", ROWS[:35]))
    return store


def test_a_list_that_is_part_of_the_run_adds_nothing(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = files(store, "plan")
    assert add(store, str(tmp_path / "a.parquet"))[1] == []
    assert files(store, "plan") == before
    assert "1 of 1 files are part of the run already" in caplog.text
    (tmp_path / "lists").mkdir()
    (tmp_path / "a.parquet").rename(tmp_path / "lists" / "a.parquet")
    more = write(tmp_path / "lists" / "b.parquet", ROWS[35:])
    # A folder that holds both, and the new one once more by another name: it is added once.
    made, added = add(store, str(tmp_path / "lists"), f"{tmp_path}/lists/../lists/b.parquet")
    assert (added, made.rows, made.shards) == ([more], 60, 4 + 3)
    assert add(store, more)[1] == []


def test_the_run_is_found_by_any_of_its_lists_afterwards(store: Store, tmp_path: Path) -> None:
    made, _ = add(store, write(tmp_path / "b.parquet", ROWS[35:]))
    for name in ("a.parquet", "b.parquet", "[ab].parquet"):
        assert start(store, str(tmp_path / name)) == made


def test_a_run_that_is_not_planned_or_cut_otherwise_is_not_extended(store: Store, tmp_path: Path) -> None:
    more = write(tmp_path / "b.parquet", ROWS[35:])
    with pytest.raises(RunDirError, match=r"shards\.\*"):
        add(store, more, rows_per_shard=11)
    with pytest.raises(RunDirError, match=r"plan\.json"):
        add(Store(str(tmp_path / "nothing")), more)


def test_a_list_without_rows_is_refused_and_changes_nothing(store: Store, tmp_path: Path) -> None:
    before = files(store, "plan")
    with pytest.raises(InputError, match="at least one row"):
        add(store, write(tmp_path / "empty.parquet", []))
    assert files(store, "plan") == before


@pytest.mark.parametrize(
    ("point", "at"),
    [
        ("commit.plan.data.before_write", 1),
        ("commit.plan.data.before_rename", 2),
        ("commit.plan.data.after_rename", 2),
        ("commit.plan.manifest.after_rename", 3),
        ("extend.commit.before_rename", 1),
        ("extend.commit.after_rename", 1),
    ],
)
def test_an_extension_killed_anywhere_is_done_again_by_the_same_call(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str, at: int
) -> None:
    more = write(tmp_path / "b.parquet", ROWS[30:])
    reference = Store(str(tmp_path / "reference"))
    start(reference, str(tmp_path / "a.parquet"))
    expected, _ = add(reference, more)
    was = files(store, "plan")
    with monkeypatch.context() as patch:
        patch.setattr(faults, "_armed", faults._parse(f"{point}:raise@{at}", str(tmp_path)))
        with pytest.raises(InjectedFault):
            add(store, more)
    # Whatever lies there, the run is what it was until the commit.
    there = start(store, str(tmp_path / "a.parquet"))
    assert there.rows == (65 if point.endswith("commit.after_rename") else 35)
    made, _ = add(store, more)
    assert made.fingerprint == expected.fingerprint
    assert store.index("plan") == reference.index("plan")
    now = files(store, "plan")
    assert {n: f[0] for n, f in now.items()} == {n: f[0] for n, f in files(reference, "plan").items()}
    for name in ("plan.json", "plan-copy.json"):
        del was[name]
    assert was.items() <= now.items()


def killed_extension(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut the shards of another list, and fail before they count."""
    with monkeypatch.context() as patch:
        patch.setattr(faults, "_armed", faults._parse("extend.commit.before_write:raise@1", str(tmp_path)))
        with pytest.raises(InjectedFault):
            add(store, write(tmp_path / "b.parquet", ROWS[30:]))


def test_a_smaller_extension_after_a_killed_one_leaves_nothing_of_it(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_extension(store, tmp_path, monkeypatch)
    made, _ = add(store, write(tmp_path / "c.parquet", ROWS[30:38]))
    assert sorted(store.index("plan")) == list(made.shard_numbers()) == [0, 1, 2, 3, 4]
    assert len(list(Path(store.path("plan")).glob("*.parquet"))) == 5


def test_a_removal_that_was_cut_short_is_completed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_extension(store, tmp_path, monkeypatch)
    assert sorted(store.index("plan")) == [0, 1, 2, 3, 4, 5, 6]
    store.remove_shard("plan", 4)  # as far as a killed removal came
    remove_unplanned(store, 4)
    assert sorted(store.index("plan")) == [0, 1, 2, 3]
    assert len(list(Path(store.path("plan")).glob("*.parquet"))) == 4


def test_only_shards_whose_outcome_changed_are_counted_anew(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "run"))
    # A text of 2 rows that will have 3, one of 1 that will have 2, one of 3 that will have 4.
    texts = [
        "becomes common",
        "becomes common",
        "shared",
        "common",
        "common",
        "common",
        *(f"own {n}" for n in range(24)),
    ]
    rows = [(f"http://a/{n}", text) for n, text in enumerate(texts)]
    made = start(store, write(tmp_path / "a.parquet", rows), 3)
    mark_common_texts(store, made, MOST)
    table = common_texts_table(MOST)
    before, index = files(store, table), store.index(table)
    mark_common_texts(store, made, MOST)
    assert files(store, table) == before
    more = [(f"http://b/{n}", text) for n, text in enumerate(["Becomes  Common", "shared", "common"])]
    made, _ = add(store, write(tmp_path / "b.parquet", more), rows_per_shard=3)
    mark_common_texts(store, made, MOST)
    changed = {shard for shard, entry in store.index(table).items() if index.get(shard) != entry}
    holding = {s for s in range(10) if "becomes common" in store.load("plan", s)["alt"].to_pylist()}
    assert changed == holding | {10}
    assert 0 < len(holding) < 10


def test_a_count_killed_half_way_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path / "run"))
    made = start(store, write(tmp_path / "a.parquet", [(f"u{n}", "same") for n in range(9)]), 3)
    table = common_texts_table(MOST)
    with monkeypatch.context() as patch:
        patch.setattr(faults, "_armed", faults._parse(f"commit.{table}.data.before_write:raise@2", str(tmp_path)))
        with pytest.raises(InjectedFault):
            mark_common_texts(store, made, MOST)
    assert len(store.index(table)) == 1
    mark_common_texts(store, made, MOST)
    assert [store.load(table, s)["text_is_common"].to_pylist() for s in range(3)] == [[True] * 3] * 3


def test_a_list_may_bring_columns_and_lack_others(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "run"))
    start(store, write(tmp_path / "a.parquet", ROWS[:3], n=pa.array([1, 2, 3], pa.int64()), note=["x", "y", "z"]))
    made, _ = add(store, write(tmp_path / "b.parquet", ROWS[3:5], mark=[1.5, None], n=pa.array([4, 5], pa.int32())))
    made, _ = add(store, write(tmp_path / "c.parquet", ROWS[5:6]))
    types = [str(input_type(store, one)) for one in made.inputs]
    assert types[0] == "struct<n: int64, note: string>"
    assert types[1] == types[2] == "struct<n: int64, note: string, mark: double>"
    assert sorted(store.load("plan", 1)["input"].to_pylist(), key=lambda r: r["n"]) == [
        {"n": 4, "note": None, "mark": 1.5},
        {"n": 5, "note": None, "mark": None},
    ]
    assert store.load("plan", 2)["input"].to_pylist() == [{"n": None, "note": None, "mark": None}]


def test_a_column_of_a_type_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "run"))
    start(store, write(tmp_path / "a.parquet", ROWS[:3], n=[1, 2, 3]))
    before = files(store, "plan")
    for wrong in (["4"], [4.5]):
        with pytest.raises(InputError, match=r"'n' is int64 in the run, (string|double)"):
            add(store, write(tmp_path / "b.parquet", ROWS[3:4], n=wrong))
    assert files(store, "plan") == before


def test_a_list_with_names_of_its_own(tmp_path: Path, store: Store) -> None:
    (tmp_path / "b.jsonl").write_text(json.dumps({"link": "http://b/1", "alt": "owl"}) + "\n")
    made, _ = add(store, str(tmp_path / "b.jsonl"), url_column="link", text_column="alt")
    assert store.load("plan", made.shards - 1, ["url", "alt", "index"]).to_pylist() == [
        {"url": "http://b/1", "alt": "owl", "index": 35}
    ]
    # The same file with another column as its text is another list.
    assert add(store, str(tmp_path / "b.jsonl"), url_column="link", text_column=None)[0].rows == 37
