"""Products of unit vectors of float16 that come out the same everywhere: for any order, block, library or processor.

A number of float16 is a multiple of 2^-24, so a product of two is a multiple of 2^-48.  A sum of such products that
stays below 16, as that of vectors of about unit length does, fits the 53 bits of float64: no sum is ever rounded.
float32 is several times as fast, and wrong by at most `margin`.  So float32 decides what is clear, and float64 the
rest.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from curation.duplicates.kinds import Indices

#: Unit vectors [n, D] of float16.
Vectors = npt.NDArray[np.float16]
Products = npt.NDArray[Any]

#: Rows whose products are computed at once.
BLOCK = 4096
#: Rows that are converted at once: 512 KB of 512 numbers, which stay in a core's cache between the steps.
IN_CACHE = 256


def margin(dimensions: int) -> float:
    """Twice what a product of float32 of two vectors may be wrong by: D rounding errors of 2^-24 of a sum of 1.

    (Higham 2002, "Accuracy and Stability of Numerical Algorithms", 3.1, for any order of summation.)
    """
    return (dimensions + 16) * 2.0**-23


def widened(vectors: Vectors) -> npt.NDArray[np.float32]:
    """The same numbers as float32; NumPy's own conversion takes five times as long."""
    wide = np.empty(vectors.shape, np.float32)
    for begin in range(0, len(vectors), IN_CACHE):
        part = wide[begin : begin + IN_CACHE]
        bits = part.view(np.int32)
        bits[...] = np.ascontiguousarray(vectors[begin : begin + IN_CACHE]).view(np.int16)
        bits <<= 13
        bits &= np.int32(-0x70000001)  # 0x8FFFFFFF: the sign was extended into the exponent
        part *= np.float32(2.0**112)
    return wide


def exact(a: Vectors, b: Vectors) -> npt.NDArray[np.float64]:
    """The products of all rows of `a` with all of `b`, [len(a), len(b)]."""
    products: npt.NDArray[np.float64] = widened(a).astype(np.float64) @ widened(b).astype(np.float64).T
    return products


def exact_pairs(a: Vectors, b: Vectors) -> npt.NDArray[np.float64]:
    """The products of row i of `a` with row i of `b`, [n]."""
    found = np.empty(len(a))
    for begin in range(0, len(a), IN_CACHE):
        part = slice(begin, begin + IN_CACHE)
        one = widened(a[part]).astype(np.float64)
        found[part] = np.einsum("nd,nd->n", one, one if a is b else widened(b[part]).astype(np.float64))
    return found


def largest(products: Products, count: int, clear: float) -> tuple[Indices, npt.NDArray[np.bool_]]:
    """The places of the `count` largest of each row, [n, count], in any order, and whether they are clearly so, [n].

    clear: by how much the last of them must exceed the next.
    """
    n, k = products.shape
    if count >= k:
        return np.broadcast_to(np.arange(k), (n, k)), np.ones(n, np.bool_)
    if count == 1:
        top = products.argmax(1)
        best = products[np.arange(n), top]
        return top[:, None], (products > (best - clear)[:, None]).sum(1) == 1
    order = np.argpartition(-products, count, axis=1)[:, : count + 1]
    values = np.take_along_axis(products, order, 1)
    by_value = np.argsort(-values, axis=1, kind="stable")
    order, values = np.take_along_axis(order, by_value, 1), np.take_along_axis(values, by_value, 1)
    return order[:, :count], values[:, count - 1] - values[:, count] > clear


def nearest(
    vectors: Vectors, centroids: Vectors, count: int = 1, wide: npt.NDArray[np.float32] | None = None
) -> Indices:
    """The places of the `count` centroids with the largest products for each vector, [n, count], in any order.

    Of equal ones, the first.  wide: the vectors, where they are at hand as float32.
    """
    count = min(count, len(centroids))
    columns, found = widened(centroids).T, np.empty((len(vectors), count), np.int64)
    for begin in range(0, len(vectors), BLOCK):
        some = vectors[begin : begin + BLOCK]
        rows = widened(some) if wide is None else wide[begin : begin + BLOCK]
        top, sure = largest(rows @ columns, count, margin(vectors.shape[1]))
        unsure = np.flatnonzero(~sure)
        if len(unsure):
            top = top.copy()
            top[unsure] = np.argsort(-exact(some[unsure], centroids), axis=1, kind="stable")[:, :count]
        found[begin : begin + BLOCK] = top
    return found


def by_value(vectors: Vectors) -> npt.NDArray[np.uint64]:
    """A number for each vector, [n]; unequal vectors have unequal ones but for one chance in 2^64."""
    odd = np.random.default_rng(0).integers(0, 2**63, vectors.shape[1], dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    found = np.empty(len(vectors), np.uint64)
    with np.errstate(over="ignore"):
        for begin in range(0, len(vectors), IN_CACHE):
            words = np.ascontiguousarray(vectors[begin : begin + IN_CACHE]).view(np.uint16).astype(np.uint64)
            found[begin : begin + IN_CACHE] = words @ odd
    return found
