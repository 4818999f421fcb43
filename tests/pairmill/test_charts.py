"""Scales, lines, dots and columns: places worked out by hand."""

import itertools
import math

import pytest

from pairmill.axes import axis, thinned
from pairmill.charts import Course, Label, Spot, _apart, bend, compared, curves, distribution, scatter, stairs


def test_axes_are_marked_with_round_numbers() -> None:
    assert [word for _, word in axis([0.003, 0.051], lambda v: f"{v:g}", zero=True).ticks] == [
        "0",
        "0.02",
        "0.04",
        "0.06",
    ]
    log = axis([0.01, 0.2], lambda v: f"{v:g}", log=True)
    assert [word for _, word in log.ticks] == ["0.01", "0.03", "0.1"]
    assert log.at(0.01) == 0 and log.at(0.2) == 100 and log.at(math.sqrt(0.002)) == pytest.approx(50)
    assert axis([5.0], str).at(5.0) == pytest.approx(50, abs=25) and axis([0.0], str).ticks
    assert not axis([-1.0, 1.0], str, log=True).log


@pytest.mark.parametrize("values", [[1e-30, 1e30], [-1e30, 1e30], [3.0, 3.0 + 1e-15], [0.0, 5e-324]])
def test_no_range_is_too_wide_or_too_narrow_for_an_axis(values: list[float]) -> None:
    for log, snug in itertools.product((False, True), repeat=2):
        scale = axis(values, str, log=log, snug=snug)
        assert len(scale.ticks) <= 12 and all(math.isfinite(scale.at(value)) for value in values)


def test_thinning_keeps_the_ends() -> None:
    assert thinned(range(100), 4) == [0, 33, 66, 99] and thinned([1, 2], 4) == [1, 2]


def test_labels_are_moved_apart_and_stay_within() -> None:
    tops = [label.top for label in _apart([Label(0, top, "", "") for top in (99, 98, 97, 10)], 6)]
    assert tops == [10, 88, 94, 100]


def test_curves_of_nothing_are_none() -> None:
    assert curves([Course([], "finished", "", "")], str, str) is None


def test_a_front_is_stepped_on_the_side_of_what_it_dominates() -> None:
    x, y = axis([0, 4], str, snug=True), axis([0, 4], str, snug=True)
    assert stairs([(3, 1), (1, 3)], x, y, less_x=False) == "M25.00 25.00V75.00H75.00"
    assert stairs([(3, 3), (1, 1)], x, y, less_x=True) == "M25.00 75.00H75.00V25.00"


def test_a_label_is_left_out_where_it_would_lie_on_the_label_of_a_dot_before_it() -> None:
    x, y = axis([0, 100], str, snug=True), axis([0, 100], str, snug=True)
    spots = [Spot(50, 50, "finished", "", "a"), Spot(10, 50, "finished", "", "b"), Spot(52, 51, "best", "", "c")]
    drawn = scatter(spots, x, y)
    assert sorted(label.word for label in drawn.labels) == ["b", "c"]
    assert [mark.kind for mark in drawn.marks] == ["dot finished", "dot finished", "dot best"]


def test_a_bend_is_level_at_both_ends() -> None:
    assert bend(0, 10, 20, 30, 0.25) == "C5.00 10.00 15.00 30.00 20.00 30.00"
    assert bend(0, 10, 20, 30, 0.5, decimals=3) == "C10.00 10.000 10.00 30.000 20.00 30.000"


def test_columns_show_what_was_kept_of_each_bin() -> None:
    edges = [float(edge) for edge in range(10, 110, 10)]
    everything, kept = [0] * 11, [0] * 11
    everything[4:6], kept[4:6] = [8, 2], [4, 0]
    drawn = compared(edges, everything, kept, lambda edge: f"{edge:.0f}")
    assert drawn is not None and drawn.highest == 8
    # Two bins with rows, and three empty ones on each side.
    assert [(column.behind, column.front) for column in drawn.columns] == [
        *[(0.0, 0.0)] * 3,
        *[(100.0, 50.0), (25.0, 0.0)],
        *[(0.0, 0.0)] * 3,
    ]
    assert drawn.columns[3].title == "40 – 50: 8, kept 4"
    assert drawn.ticks == [(25.0, "30"), (50.0, "50"), (75.0, "70")]
    assert compared(edges, [0] * 11, kept, str) is None


def test_one_distribution_says_nothing_of_what_was_kept() -> None:
    drawn = distribution([1.0], [0, 3], str)
    assert drawn is not None and [column.title for column in drawn.columns] == [" – 1.0: 0", "1.0 – : 3"]
