"""Products of float16 against rational numbers, and choices that no order of summation changes."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.duplicates.exact_products import by_value, exact, exact_pairs, largest, margin, nearest, widened

Vectors = npt.NDArray[np.float16]


def unit(n: int, dimensions: int, seed: int) -> Vectors:
    """Random directions."""
    found = np.random.default_rng(seed).standard_normal((n, dimensions))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float16)


def rational(a: npt.NDArray[np.float16], b: npt.NDArray[np.float16]) -> Fraction:
    return sum((Fraction(float(x)) * Fraction(float(y)) for x, y in zip(a, b, strict=True)), Fraction(0))


def test_every_number_of_float16_widens_to_itself() -> None:
    finite = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = finite[np.isfinite(finite)]
    wide = widened(finite)
    assert wide.dtype == np.float32
    assert np.array_equal(wide, finite.astype(np.float32))
    assert np.array_equal(np.signbit(wide), np.signbit(finite))


@settings(max_examples=30)
@given(seed=st.integers(0, 2**31), dimensions=st.integers(1, 700))
def test_products_are_exact_and_float32_is_within_half_the_margin(seed: int, dimensions: int) -> None:
    a, b = unit(3, dimensions, seed), unit(4, dimensions, seed + 1)
    true = [[rational(x, y) for y in b] for x in a]
    assert exact(a, b).tolist() == [[float(one) for one in row] for row in true]
    assert [Fraction(one) for one in exact(a, b).ravel().tolist()] == [one for row in true for one in row]
    assert exact_pairs(a, b[:3]).tolist() == [float(true[at][at]) for at in range(3)]
    # Ones of the worst length, in float32, one after the other.
    apart = np.abs((widened(a) @ widened(b).T).astype(np.float64) - exact(a, b)).max()
    assert apart <= margin(dimensions) / 2


def test_what_is_not_clear_is_decided_exactly() -> None:
    # Two centroids that differ in one bit of one number: float32 sums lose it, depending on their order.
    base = unit(1, 512, 0)
    other = base.copy()
    other.view(np.uint16)[0, 7] ^= 1
    vectors = unit(3000, 512, 1)
    centroids = np.concatenate([base, other, unit(5, 512, 2) / np.float16(8)])
    found = nearest(vectors, centroids)[:, 0]
    true = exact(vectors, centroids).argmax(1)
    assert np.array_equal(found, true)
    assert len(set(true.tolist()) & {0, 1}) == 2
    shuffled = np.random.default_rng(3).permutation(len(vectors))
    assert np.array_equal(nearest(vectors[shuffled], centroids)[:, 0], found[shuffled])
    assert np.array_equal(
        np.concatenate([nearest(vectors[at : at + 7], centroids)[:, 0] for at in range(0, 700, 7)]), found[:700]
    )


def test_of_equal_centroids_the_first_is_nearest() -> None:
    centroid = unit(1, 64, 0)
    assert set(nearest(unit(50, 64, 1), np.concatenate([centroid] * 3))[:, 0].tolist()) == {0}


@settings(max_examples=30)
@given(seed=st.integers(0, 2**31), count=st.integers(1, 9), centroids=st.integers(1, 8))
def test_the_nearest_centroids_are_those_of_all_products(seed: int, count: int, centroids: int) -> None:
    vectors, others = unit(20, 16, seed), unit(centroids, 16, seed + 1)
    found = nearest(vectors, others, count)
    order = np.argsort(-exact(vectors, others), axis=1, kind="stable")[:, :count]
    assert np.array_equal(np.sort(found, axis=1), np.sort(order, axis=1))


def test_largest_says_where_the_next_is_too_near() -> None:
    products = np.array([[0.5, 0.1, 0.4], [0.5, 0.45, 0.1]], np.float32)
    top, sure = largest(products, 1, 0.06)
    assert top.tolist() == [[0], [0]]
    assert sure.tolist() == [True, False]
    top, sure = largest(products, 2, 0.06)
    assert np.sort(top, axis=1).tolist() == [[0, 2], [0, 1]]
    assert sure.tolist() == [True, True]


def test_numbers_by_value_are_equal_for_equal_vectors_only_and_in_any_place() -> None:
    vectors = np.concatenate([unit(6000, 24, 0), unit(6000, 24, 0), unit(10, 24, 1)])
    found = by_value(vectors)
    assert np.array_equal(found[:6000], found[6000:12000])
    assert len(np.unique(found)) == 6010
    assert np.array_equal(by_value(vectors[5990:6010]), found[5990:6010])
