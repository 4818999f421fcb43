"""Histograms and capped counters."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.results.tallies import Frequent, Histogram

VALUES = st.lists(st.floats(0, 2000, allow_nan=False), min_size=1, max_size=60)


def test_bins_hold_their_lower_edge_and_what_lies_outside_is_counted() -> None:
    histogram = Histogram([1, 2, 4])
    histogram.add([0.5, 1, 1.9, 2, 3, 4, 100, float("nan")])
    assert histogram.counts.tolist() == [1, 2, 2, 2]
    assert len(histogram) == 7
    assert histogram.max == 100


def test_nothing_has_no_quantile_and_no_mean() -> None:
    assert Histogram([1, 2]).quantile(0.5) is None
    assert Histogram([1, 2]).summary()["mean"] is None


@settings(deadline=None, max_examples=50)
@given(VALUES, st.sampled_from([0.1, 0.5, 0.99]))
def test_a_quantile_is_within_a_bin_of_the_true_one(values: list[float], share: float) -> None:
    histogram = Histogram(np.arange(0, 1001, 10))
    histogram.add(values)
    true = np.quantile(values, share, method="inverted_cdf")
    found = histogram.quantile(share)
    assert found is not None
    if true < 1000:
        assert abs(found - true) <= 10
    else:
        assert 1000 <= found <= max(values)


@settings(deadline=None, max_examples=50)
@given(VALUES)
def test_coarse_bins_count_the_same_values(values: list[float]) -> None:
    fine, direct = Histogram(np.arange(0, 1001, 10)), Histogram([10, 200, 990])
    fine.add(values)
    direct.add(values)
    assert fine.coarse([10, 200, 990]) == direct.counts.tolist()


def test_coarse_edges_must_be_edges() -> None:
    with pytest.raises(ValueError, match="must be edges"):
        Histogram([1, 2, 3]).coarse([1.5])


def test_a_counter_forgets_rare_words_and_never_common_ones() -> None:
    frequent: Frequent[str] = Frequent(cap=10)
    for n in range(1000):
        frequent.add({f"once-{n}": 1, "common": 5, "other": 3})
    assert len(frequent.counts) <= 20
    assert list(frequent.most_common(2).items()) == [("common", 5000), ("other", 3000)]
