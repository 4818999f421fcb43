"""Sketches of numbers: counts and quantiles as near as they say, whatever the order and the division."""

import sys

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from curation.results import sketch as module
from curation.results.sketch import Sketch

NUMBERS = st.lists(st.floats(-1e12, 1e12, allow_nan=False) | st.integers(-9, 9).map(float), min_size=1, max_size=80)


def of(values: object) -> Sketch:
    made = Sketch()
    made.add(np.asarray(values, np.float64))
    return made


@settings(deadline=None)
@given(NUMBERS, st.sampled_from([0.0, 0.1, 0.5, 0.99, 1.0]))
@example([0.0, 1.0, 2.225073858507e-311], 0.5)
def test_a_quantile_is_as_near_as_it_says(values: list[float], share: float) -> None:
    made = of(values)
    true = float(np.quantile(values, share, method="inverted_cdf"))
    found = made.quantile(share)
    assert found is not None and abs(found - true) <= made.error * max(abs(true), sys.float_info.min)
    assert len(made) == len(values)


@settings(deadline=None)
@given(NUMBERS, NUMBERS)
def test_two_added_are_one_of_all(one: list[float], two: list[float]) -> None:
    merged = of(one)
    merged.merge(of(two))
    whole = of([*reversed(two), *one])
    edges = whole.edges()
    assert merged.edges() == edges and merged.counts(edges) == whole.counts(edges)


def test_what_is_too_fine_is_cut_to_the_same_bits_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BINS", 200)
    values = np.random.default_rng(0).normal(size=4000) * 10.0 ** np.random.default_rng(1).integers(-3, 4, 4000)
    whole, parts, ordered = of(values), Sketch(), Sketch()
    for part in np.array_split(values, 13):
        parts.merge(of(part))
    for value in np.sort(values)[::-1].reshape(-1, 50):
        ordered.add(value)
    edges = whole.edges()
    assert parts.counts(edges) == whole.counts(edges) == ordered.counts(edges)
    assert whole.error == parts.error == ordered.error > 2**-12
    for share in (0.2, 0.5, 0.9):
        true = np.quantile(values, share, method="inverted_cdf")
        assert abs((parts.quantile(share) or 0) - true) <= parts.error * abs(true)


@settings(deadline=None)
@given(st.lists(st.integers(-20, 20), min_size=1, max_size=50))
def test_numbers_that_are_edges_are_counted_on_their_own_side(values: list[int]) -> None:
    tenths = [float(f"{value / 10:.1f}") for value in values]
    edges = [-1.0, -0.3, 0.0, 0.1, 0.7]
    assert of(tenths).counts(edges) == np.histogram(tenths, [-np.inf, *edges, np.inf])[0].tolist()


@settings(deadline=None)
@given(NUMBERS)
def test_columns_are_few_hold_everything_and_have_round_edges(values: list[float]) -> None:
    made = of(values)
    edges = made.edges()
    assert 2 <= len(edges) <= 130 and edges == sorted(set(edges))
    assert sum(made.counts(edges)) == len(values)


def test_a_mark_nearby_is_within_and_one_far_away_is_not() -> None:
    made = of(np.linspace(0, 1, 1000))
    assert made.edges([1.4])[-1] >= 1.4
    assert made.edges([50.0])[-1] <= 1.1


def test_few_numbers_far_away_do_not_squeeze_the_others() -> None:
    made = of([*np.linspace(0, 1, 10_000), 1e9])
    edges = made.edges()
    assert edges[-1] < 2 and made.counts(edges)[-1] >= 1 and made.largest == 1e9


def test_nothing_has_no_columns() -> None:
    made = of([np.nan, np.inf])
    assert len(made) == 0 and made.edges() == [] and made.quantile(0.5) is None
