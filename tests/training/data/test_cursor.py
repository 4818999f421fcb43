import itertools
import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pairmill.errors import IntegrityError
from training.data.cursor import (
    BundleSpec,
    ReadingPlan,
    bundles,
    fitting_lanes,
    lanes_of,
    local_rows,
    rank_bundles,
    single_pass,
)

Row = tuple[int, int, int, int]  # dataset, epoch, piece, row of the piece


def rows_of(spec: BundleSpec) -> list[Row]:
    inside = [(spec.dataset, spec.epoch, s.piece, row) for s in spec.spans for row in range(s.start, s.stop)]
    return [inside[at] for at in spec.order()]


def lane_rows(plan: ReadingPlan, lane: int, count: int, start_batch: int = 0) -> list[Row]:
    """The first `count` rows that a lane consumes, by replaying the pattern over its bundles."""
    stream = bundles(plan, lane, start_batch)
    ready: dict[int, list[Row]] = {d: [] for d in range(len(plan.datasets))}
    position = start_batch * plan.share
    out = []
    for dataset in plan.datasets_at(lane, position, position + count).tolist():
        while not ready[dataset]:
            spec = next(stream)
            ready[spec.dataset] += rows_of(spec)
        out.append(ready[dataset].pop(0))
    return out


@st.composite
def plans(draw: st.DrawFn, most_datasets: int = 3) -> ReadingPlan:
    lanes = draw(st.integers(1, 5))
    batch_size = lanes * draw(st.integers(1, 4))
    pieces = st.lists(st.integers(1, 30), min_size=1, max_size=12).map(tuple)
    enough = pieces.filter(lambda rows: sum(rows) >= batch_size)
    datasets = draw(
        st.lists(st.tuples(enough, st.sampled_from([0.1, 1.0, 2.5])), min_size=1, max_size=most_datasets).map(tuple)
    )
    return ReadingPlan(
        datasets, draw(st.integers(0, 99)), lanes, batch_size, draw(st.integers(1, 40)), shuffle=draw(st.booleans())
    )


@settings(max_examples=40)
@given(plans(most_datasets=1))
def test_an_epoch_takes_each_row_at_most_once_and_drops_less_than_a_batch(plan: ReadingPlan) -> None:
    length = plan.lane_rows(0)
    taken = [row for lane in range(plan.lanes) for row in lane_rows(plan, lane, length)]
    assert len(set(taken)) == len(taken) == plan.steps_per_epoch * plan.batch_size
    total = sum(plan.datasets[0][0])
    # The remainder of each lane's share, and the rows that do not divide among the lanes.
    assert total - len(taken) < plan.batch_size + plan.lanes
    assert {row[1] for row in taken} == {0}
    pieces = plan.datasets[0][0]
    assert all(0 <= at < pieces[piece] for _, _, piece, at in taken)


@settings(max_examples=40)
@given(plans(), st.integers(0, 25))
def test_resuming_at_any_batch_continues_the_same_stream(plan: ReadingPlan, start: int) -> None:
    for lane in range(plan.lanes):
        more = 3 * plan.share
        whole = lane_rows(plan, lane, start * plan.share + more)
        assert lane_rows(plan, lane, more, start) == whole[start * plan.share :]


@settings(max_examples=40)
@given(plans())
def test_bundles_come_in_the_order_they_are_needed_and_where_the_pattern_needs_them(plan: ReadingPlan) -> None:
    for lane in range(plan.lanes):
        specs = list(itertools.islice(bundles(plan, lane), 20))
        assert [spec.first for spec in specs] == sorted(spec.first for spec in specs)
        for spec in specs:
            assert plan.datasets_at(lane, spec.first, spec.first + 1).tolist() == [spec.dataset]


@given(plans(), st.integers(0, 10**7))
def test_consumed_is_the_count_of_the_pattern_and_position_its_inverse(plan: ReadingPlan, far: int) -> None:
    lane = plan.lanes - 1
    counts = Counter(plan.datasets_at(lane, 0, 500).tolist())
    for dataset in range(len(plan.datasets)):
        assert plan.consumed(dataset, lane, 500) == counts[dataset]
        at = plan.position(dataset, lane, far)
        assert plan.consumed(dataset, lane, at) == far and plan.consumed(dataset, lane, at + 1) == far + 1


@given(plans(), st.integers(1, 5))
def test_workers_share_out_the_lanes(plan: ReadingPlan, world: int) -> None:
    world = min(world, plan.lanes)
    shares = [lanes_of(plan, rank, world) for rank in range(world)]
    assert sorted(itertools.chain(*shares)) == list(range(plan.lanes))
    assert max(len(share) for share in shares) * plan.share == local_rows(plan, world)
    mine = {spec.lane for spec in itertools.islice(rank_bundles(plan, 0, world), 50)}
    assert mine <= set(shares[0])


@given(plans())
def test_a_bundle_is_about_as_large_as_asked_for(plan: ReadingPlan) -> None:
    for spec in itertools.islice(bundles(plan, 0), 30):
        assert 0 < spec.rows <= 1.5 * plan.bundle_rows
        assert sorted(spec.order().tolist()) == list(range(spec.rows))


def test_weights_decide_the_mixture_of_every_stretch() -> None:
    plan = ReadingPlan(
        (((5000,), 3.0), ((5000,), 1.0), ((5000,), 0.001)), seed=1, lanes=4, batch_size=64, bundle_rows=100
    )
    for batch in range(0, 300, 7):
        counts = Counter[int]()
        for lane in range(4):
            counts.update(plan.datasets_at(lane, batch * 16, (batch + 1) * 16).tolist())
        assert abs(counts[0] - 48) <= 4 and abs(counts[1] - 16) <= 4
    assert plan.consumed(2, 0, 10_000) == 3  # 2.5 rounded up: not starved


def test_epochs_and_seeds_differ_and_runs_do_not() -> None:
    def first_rows(seed: int, skip: int = 0) -> list[tuple[int, int]]:
        plan = ReadingPlan((((10,) * 8, 1.0),), seed=seed, lanes=2, batch_size=4, bundle_rows=16)
        return [row[2:] for row in lane_rows(plan, 0, 40, start_batch=skip)]

    assert first_rows(1) == first_rows(1)
    assert first_rows(1) != first_rows(2)
    assert first_rows(1) != first_rows(1, skip=20)  # the second epoch


def test_without_shuffling_rows_come_in_order() -> None:
    plan = ReadingPlan((((3, 4, 5), 1.0),), seed=1, lanes=1, batch_size=4, bundle_rows=5, shuffle=False)
    assert [row[2:] for row in lane_rows(plan, 0, 12)] == [(p, r) for p, n in enumerate((3, 4, 5)) for r in range(n)]


def test_bundles_end_where_pieces_end_if_that_is_near() -> None:
    plan = ReadingPlan((((100,) * 40, 1.0),), seed=1, lanes=1, batch_size=10, bundle_rows=210)
    for spec in itertools.islice(bundles(plan, 0), 15):
        assert all(span.stop - span.start == 100 for span in spec.spans)


def test_a_bundle_is_small_plain_data() -> None:
    plan = ReadingPlan((((100,) * 1000, 1.0),), seed=1, lanes=2, batch_size=10, bundle_rows=1000)
    spec = next(bundles(plan, 1, start_batch=77))
    assert spec.skip > 0
    assert pickle.loads(pickle.dumps(spec)) == spec and len(pickle.dumps(spec)) < 2000


def test_the_fingerprint_knows_everything_that_decides_the_stream() -> None:
    def fingerprint(**changed: object) -> str:
        whole: dict[str, object] = {"datasets": (((9, 9), 1.0),), "seed": 1, "lanes": 2, "batch_size": 4}
        return ReadingPlan(**(whole | {"bundle_rows": 8} | changed)).fingerprint  # type: ignore[arg-type]

    changes: list[dict[str, object]] = [
        {},
        {"datasets": (((9, 8), 1.0),)},
        {"seed": 2},
        {"lanes": 1},
        {"batch_size": 8},
        {"bundle_rows": 9},
        {"shuffle": False},
        {"fingerprints": ("x",)},
    ]
    assert len({fingerprint(**change) for change in changes}) == len(changes)
    assert fingerprint() == fingerprint(datasets=((np.array([9, 9]), 1.0),))


@given(st.lists(st.integers(1, 30), min_size=1, max_size=9), st.integers(1, 40))
def test_a_single_pass_takes_every_row_once_in_order(rows: list[int], bundle_rows: int) -> None:
    taken = [row[2:] for spec in single_pass(rows, bundle_rows) for row in rows_of(spec)]
    assert taken == [(piece, row) for piece, n in enumerate(rows) for row in range(n)]


@pytest.mark.parametrize(
    ("batch_size", "lanes", "fitting"), [(256, 8, 8), (12, 8, 6), (7, 8, 7), (65, 8, 5), (1, 8, 1)]
)
def test_lanes_are_lowered_to_divide_the_batch(batch_size: int, lanes: int, fitting: int) -> None:
    assert fitting_lanes(batch_size, lanes) == fitting


@pytest.mark.parametrize(
    ("rows", "lanes", "said"),
    [([12], 3, "3 of 8"), ([3], 4, "none of dataset 0")],
)
def test_a_plan_that_would_lose_rows_is_refused(rows: list[int], lanes: int, said: str) -> None:
    with pytest.raises(IntegrityError, match=said):
        ReadingPlan(((rows, 1.0),), seed=0, lanes=lanes, batch_size=8, bundle_rows=4)
