"""Products of 7-bit numbers: whatever is above a limit is found, and little else."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.duplicates.small_integers import above, rounded


def unit(n: int, dimensions: int, seed: int, outlier: float = 0.0) -> npt.NDArray[np.float32]:
    """Random directions; outlier: what is added to one number of each."""
    found = np.random.default_rng(seed).standard_normal((n, dimensions))
    found[:, 0] += outlier
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    n=st.integers(1, 90),
    m=st.integers(1, 90),
    dimensions=st.integers(1, 600),
    outlier=st.sampled_from([0.0, 5.0, 100.0]),
    least=st.floats(-0.5, 0.999),
)
def test_all_products_above_the_limit_are_found(
    seed: int, n: int, m: int, dimensions: int, outlier: float, least: float
) -> None:
    one, other = unit(n, dimensions, seed, outlier), unit(m, dimensions, seed + 1, outlier)
    a, b = above(rounded(one), rounded(other), least)
    found = set(zip(a.tolist(), b.tolist(), strict=True))
    products = one.astype(np.float64) @ other.astype(np.float64).T
    assert {(i, j) for i, j in np.argwhere(products > least).tolist()} <= found


def test_what_is_found_is_within_the_error_of_both_sides() -> None:
    one, other = unit(300, 512, 0), unit(400, 512, 1)
    left, right = rounded(one), rounded(other)
    for vectors, form in ((one, left), (other, right)):
        apart = np.linalg.norm(vectors - form.numbers * np.float64(form.step), axis=1)
        assert abs(apart.max() - form.error) < 1e-5
        assert 0.01 < form.error < 0.03
        assert np.abs(form.numbers).max() == 63
    a, b = above(left, right, 0.12)
    products = one.astype(np.float64) @ other.astype(np.float64).T
    assert 0 < (products > 0.12).sum() < len(a) < products.size / 10
    assert products[a, b].min() > 0.12 - 2 * (left.error + right.error) - 0.01


def test_a_part_is_that_of_the_whole() -> None:
    one = unit(300, 64, 0)
    whole = rounded(one)
    a, b = above(whole, whole, 0.3)
    part_a, part_b = above(whole.part(100, 200), whole.part(50), 0.3)
    inside = (a >= 100) & (a < 200) & (b >= 50)
    assert np.array_equal(np.stack([a, b])[:, inside], np.stack([part_a + 100, part_b + 50]))
