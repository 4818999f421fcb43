"""Batches of one cluster, and whole groups in a batch: over any number of workers, and each row once an epoch."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from small_datasets import ANY_TEXT, reader_of, uid, write_parquet, write_tar
from test_sources import curated

from pairmill.errors import IntegrityError, RecipeError
from pairmill.store import Store
from training.data.batch_policy import BatchPolicy, of_one_cluster, of_whole_groups
from training.data.batches import Batch, assemble, read_here
from training.data.config import DataConfig, Slot, TextSelector
from training.data.cursor import BundleSpec, ReadingPlan, bundles, make_plan
from training.data.sample import sample_id
from training.data.source import open_sources

Ints = NDArray[np.int64]
Row = tuple[int, int]  # piece, row of the piece


def column(rows: list[Row], values: int) -> Ints:
    """A number of each row, spread over the data without an order."""
    return np.array([[(piece * 7919 + row * 104729) % 1009 % values] for piece, row in rows], np.int64)


def rows_of(spec: BundleSpec, values: int) -> list[Row]:
    window = [[(s.piece, row) for s in spans for row in range(s.start, s.stop)] for spans in spec.window]
    own = [(s.piece, row) for s in spec.spans for row in range(s.start, s.stop)]
    return [own[at] for at in spec.order([column(rows, values) for rows in window])]


def lane_rows(plan: ReadingPlan, lane: int, count: int, values: int, start_batch: int = 0) -> list[Row]:
    found: list[Row] = []
    stream = bundles(plan, lane, start_batch)
    while len(found) < count:
        spec = next(stream)
        assert spec.first == start_batch * plan.share + len(found)
        found += rows_of(spec, values)
    return found[:count]


@st.composite
def plans(draw: st.DrawFn) -> ReadingPlan:
    lanes = draw(st.integers(1, 4))
    batch_size = lanes * draw(st.integers(1, 4))
    pieces = draw(st.lists(st.integers(1, 30), min_size=1, max_size=8).filter(lambda rows: sum(rows) >= batch_size))
    policy = BatchPolicy(("a",), groups=draw(st.booleans()))
    shuffle, bundle_rows = draw(st.booleans()), draw(st.integers(1, 40))
    return ReadingPlan(((pieces, 1.0),), draw(st.integers(0, 9)), lanes, batch_size, bundle_rows, shuffle, (), policy)


@settings(max_examples=25)
@given(plans(), st.integers(1, 9))
def test_an_epoch_takes_each_row_at_most_once_and_drops_less_than_a_batch(plan: ReadingPlan, values: int) -> None:
    length = plan.lane_rows(0)
    taken = [row for lane in range(plan.lanes) for row in lane_rows(plan, lane, length, values)]
    assert len(set(taken)) == len(taken) == plan.steps_per_epoch * plan.batch_size
    pieces = plan.datasets[0][0]
    assert sum(pieces) - len(taken) < plan.batch_size + plan.lanes
    assert all(0 <= row < pieces[piece] for piece, row in taken)


@settings(max_examples=25)
@given(plans(), st.integers(1, 9), st.integers(0, 25))
def test_resuming_at_any_batch_continues_the_same_stream(plan: ReadingPlan, values: int, start: int) -> None:
    for lane in range(plan.lanes):
        whole = lane_rows(plan, lane, (start + 3) * plan.share, values)
        assert lane_rows(plan, lane, 3 * plan.share, values, start) == whole[start * plan.share :]


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 8), st.integers(1, 5), st.integers(0, 99))
def test_a_window_has_as_many_batches_of_one_cluster_as_all_lanes_have_shares_of(
    lanes: int, share: int, batches: int, clusters: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    numbers = [rng.integers(0, clusters, (share * batches, 1)) for _ in range(lanes)]
    orders = [
        of_one_cluster(numbers, lane, share, np.random.default_rng(seed), np.random.default_rng([seed, lane]))
        for lane in range(lanes)
    ]
    assert all(sorted(order.tolist()) == list(range(share * batches)) for order in orders)
    labels = np.stack([of[order, 0].reshape(batches, share) for of, order in zip(numbers, orders, strict=True)], 1)
    pure = Counter(int(batch.flat[0]) for batch in labels if len(np.unique(batch)) == 1)
    for cluster in range(clusters):
        assert pure[cluster] >= min((of == cluster).sum() // share for of in numbers)


def test_several_columns_make_a_cluster_where_they_all_agree() -> None:
    numbers = np.array([[0, 0], [0, 1], [1, 0], [0, 0], [1, 0], [0, 1]])
    order = of_one_cluster([numbers], 0, 2, None, None)
    assert order.tolist() == [0, 3, 1, 5, 2, 4]


def test_what_is_left_over_comes_by_clusters_in_an_order_that_all_lanes_have() -> None:
    numbers = [np.array([[5], [6], [7], [7]]), np.array([[7], [5], [5], [6]])]
    orders = [of_one_cluster(numbers, lane, 4, np.random.default_rng(1), None) for lane in range(2)]
    first, second = (list(dict.fromkeys(of[order, 0].tolist())) for of, order in zip(numbers, orders, strict=True))
    assert first == second and sorted(first) == [5, 6, 7]


@given(st.lists(st.integers(-1, 6), min_size=1, max_size=60), st.integers(1, 5), st.integers(0, 4), st.integers(0, 9))
def test_groups_that_fit_are_whole(numbers: list[int], share: int, before: int, seed: int) -> None:
    of = np.array(numbers, np.int64)[:, None]
    offset = before % share
    order = of_whole_groups(of, share, np.random.default_rng(seed), offset=offset)
    assert sorted(order.tolist()) == list(range(len(of)))
    groups = {number: size for number, size in Counter(numbers).items() if number >= 0 and size > 1}
    batch = (np.arange(len(of)) + offset) // share
    whole = sum(size == share for size in Counter(batch.tolist()).values())
    if len(groups) <= whole and all(size <= share for size in groups.values()):
        assert all(len(set(batch[of[order, 0] == number].tolist())) == 1 for number in groups)


def test_groups_within_pieces_are_not_cut_between_bundles() -> None:
    plan = ReadingPlan((([24] * 40, 1.0),), 3, 2, 32, 80, policy=BatchPolicy(("a",), groups=True))
    per_piece = 6  # groups of four rows, spread over the piece
    for lane in range(2):
        taken = lane_rows_of_groups(plan, lane, plan.lane_rows(0), per_piece)
        batches: dict[Row, set[int]] = {}
        for at, row in enumerate(taken):
            batches.setdefault((row[0], row[1] % per_piece), set()).add(at // plan.share)
        # The first and last piece of a lane may be shared with another lane.
        assert sum(len(found) > 1 for found in batches.values()) <= 2 * per_piece
        assert len(batches) >= 20 * per_piece


def lane_rows_of_groups(plan: ReadingPlan, lane: int, count: int, per_piece: int) -> list[Row]:
    found: list[Row] = []
    for spec in bundles(plan, lane):
        own = [(s.piece, row) for s in spec.spans for row in range(s.start, s.stop)]
        numbers = np.array([[piece * per_piece + row % per_piece] for piece, row in own])
        found += [own[at] for at in spec.order([numbers])]
        if len(found) >= count:
            break
    return found[:count]


def test_a_group_that_fits_nowhere_is_split_and_loses_nothing() -> None:
    of = np.array([[1]] * 3 + [[2]] * 3 + [[3]] * 2)
    order = of_whole_groups(of, 4, np.random.default_rng(0))
    batches = of[order, 0].reshape(2, 4)
    assert sorted(order.tolist()) == list(range(8))
    assert [(batches == number).any(1).sum() for number in (1, 2, 3)] == [1, 1, 2]


def clustered(path: Path, n: int, clusters: int, *, name: str = "cluster") -> str:
    """The rows of `write_parquet`, row r in the cluster that its hash gives, without a number for some."""
    write_parquet(path, n)
    numbers = [None if row % 11 == 10 else row * 7 % 13 % clusters for row in range(n)]
    pq.write_table(pq.read_table(path).append_column(name, pa.array(numbers, pa.int32())), path, row_group_size=10)
    return str(path)


def config_of(path: str, **more: Any) -> DataConfig:
    given_ = {"path": path, "batch_size": 4, "lanes": 2, "bundle_rows": 60}
    return DataConfig.model_validate({**given_, **more})


def read(
    config: DataConfig,
    number: int,
    *,
    rank: int = 0,
    world: int = 1,
    start: int = 0,
    slots: tuple[Slot, ...] = (ANY_TEXT,),
) -> list[Batch]:
    sources = open_sources(config)
    plan = make_plan(config, sources, seed=3, workers=world)
    stream = read_here(plan, reader_of(sources, slots=slots, size=4), rank=rank, world=world, start_batch=start)
    made = assemble(stream, plan, rank=rank, world=world, start_batch=start)
    return list(itertools.islice(made, number))


def ids(batches: list[Batch]) -> list[list[int]]:
    return [sorted(b.sample_id_B[b.sample_id_B >= 0].tolist()) for b in batches]


def test_batches_of_a_file_are_of_one_cluster_on_any_number_of_workers(tmp_path: Path) -> None:
    config = config_of(clustered(tmp_path / "a.parquet", 120, 3), cluster_by=["cluster"])
    numbers = pq.read_table(config.path)["cluster"].to_pylist()
    cluster = {sample_id(uid(row)): -1 if number is None else number for row, number in enumerate(numbers)}
    whole = ids(read(config, 30))
    assert Counter(itertools.chain(*whole)) == Counter(cluster.keys())
    pure = sum(len({cluster[row] for row in batch}) == 1 for batch in whole)
    assert pure >= 24
    by_chance = ids(read(config_of(str(config.path)), 30))
    assert sum(len({cluster[row] for row in batch}) == 1 for batch in by_chance) < 6
    parts = [ids(read(config, 30, rank=rank, world=2)) for rank in range(2)]
    assert [sorted(one + other) for one, other in zip(*parts, strict=True)] == whole
    assert ids(read(config, 5, start=17)) == whole[17:22]
    assert ids(read(config, 30, start=30)) != whole


def test_groups_of_a_file_are_whole_on_one_worker(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", 64)
    table = pq.read_table(path).append_column("hard", pa.array([row % 32 for row in range(64)]))
    pq.write_table(table, path, row_group_size=16)
    config = config_of(str(path), keep_together="hard", bundle_rows=64, batch_size=16, lanes=1)
    group = {sample_id(uid(row)): row % 32 for row in range(64)}
    for batch in ids(read(config, 4)):
        assert sorted(Counter(group[row] for row in batch).values()) == [2] * 8


def test_clusters_of_a_selection_come_from_the_run(tmp_path: Path) -> None:
    store = Store(str(curated(tmp_path)))
    for shard in range(2):
        uids = store.load("selections/strict", shard)["uid"]
        rows = pa.table({"uid": uids, "topic": pa.array([0, 1, 0, 1], pa.int32())})
        store.commit("columns/score-topic", shard, "0" * 16, rows, {})
    config = config_of(store.uri, selection="strict", cluster_by=["topic"], batch_size=2, lanes=1, bundle_rows=6)
    topic = {row: row % 4 % 2 for row in (0, 2, 3, 4, 6, 7)}
    captions = ((TextSelector(kind="alt"),),)
    # A caption ends with the number of its row, and then with a token for the end.
    batches = [(b.tokens_BKL[:, 0, -2] - 3 - ord("0")).tolist() for b in read(config, 3, slots=captions)]
    assert sorted(itertools.chain(*batches)) == sorted(topic)
    assert sorted(sorted(topic[row] for row in batch) for batch in batches) == [[0, 0], [0, 0], [1, 1]]
    before = open_sources(config)[0].fingerprint
    uids = store.load("selections/strict", 0)["uid"]
    store.commit("columns/score-topic", 0, "0" * 16, pa.table({"uid": uids, "topic": pa.array([1, 1, 0, 0])}), {})
    assert open_sources(config)[0].fingerprint != before


def test_rows_in_another_order_are_refused(tmp_path: Path) -> None:
    store = Store(str(curated(tmp_path)))
    for shard in range(2):
        uids = store.load("selections/strict", shard)["uid"].to_pylist()[::-1]
        store.commit("columns/score-topic", shard, "0" * 16, pa.table({"uid": uids, "topic": [0] * 4}), {})
    config = config_of(store.uri, selection="strict", cluster_by=["topic"], batch_size=2, lanes=1)
    with pytest.raises(IntegrityError, match="must have the rows of selections/strict"):
        read(config, 1)


@pytest.mark.parametrize(
    ("more", "rule"),
    [
        ({"cluster_by": ["uid"]}, "must name columns of integers"),
        ({"cluster_by": ["clutser"]}, "must name columns of integers"),
        ({"cluster_by": ["cluster"], "keep_together": "cluster"}, "must set at most one"),
        ({"cluster_by": ["cluster"], "path": None, "datasets": [{"path": "a"}, {"path": "b"}]}, "a single dataset"),
        ({"keep_together": "cluster", "selection": "all", "weight": "weight"}, r"data\.weight must be null"),
    ],
)
def test_policies_that_cannot_be_are_refused(tmp_path: Path, more: dict[str, Any], rule: str) -> None:
    path = clustered(tmp_path / "a.parquet", 12, 3)
    with pytest.raises(RecipeError, match=rule):
        open_sources(DataConfig.model_validate({"path": path, "batch_size": 4, **more}))


def test_tars_are_refused(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", [("a", {"jpg": b"x", "txt": b"y"})])
    with pytest.raises(RecipeError, match=r"data\.keep_together must come with Parquet files or a run directory"):
        open_sources(config_of(str(tar), keep_together="hard"))


def test_a_policy_is_part_of_what_is_read_and_its_absence_is_not() -> None:
    assert "cluster_by" not in config_of("x").identity() and "keep_together" not in config_of("x").identity()
    policies = (None, BatchPolicy(("a",)), BatchPolicy(("b",)), BatchPolicy(("a",), groups=True))
    plans_ = [ReadingPlan((((9, 9), 1.0),), 1, 2, 4, 8, policy=policy) for policy in policies]
    assert len({plan.fingerprint for plan in plans_}) == 4
