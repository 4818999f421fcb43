"""Spherical k-means of unit vectors, in two levels, the same to the last bit on every machine.

About sqrt(k) centroids divide the space into cells, and each cell has centroids of its own, k in all.  To find its
cluster a vector is compared with those of the first level and those of the nearest six cells: about 7 sqrt(k)
products instead of k, which would be more than everything else together.

Sums of rows are exact (`curation.duplicates.exact_products`), so neither the order of rows nor the number of threads
matters; a centroid is the sum of its rows, of unit length, rounded to float16.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from curation.duplicates.exact_products import BLOCK, Vectors, by_value, exact_pairs, margin, nearest, widened
from curation.duplicates.kinds import Indices

#: Rows of the sample by which a centroid of the first level is fitted; faiss warns below 39 and takes at most 256.
_ROWS_PER_CELL = 256

#: Leaves of a cell from which they are made a multiple of sixteen.
_MULTIPLES = 24

#: Cells in which the nearest centroids are looked for.  Of a million vectors in 1,000 clusters, 99.1 % of near copies
#: are together with their originals in one of two clusters; with eight cells 99.5 %, for a tenth more time in all.
_CELLS = 6

#: Rows whose cluster is searched for at once.
_AT_ONCE = 1 << 11


Floats = npt.NDArray[np.float32]


class Clusters(NamedTuple):
    """cells: [k1, D].  leaves: [k, D], those of cell c from starts[c] to starts[c + 1]."""

    cells: Vectors
    leaves: Vectors
    starts: Indices

    def of(self, vectors: Vectors, count: int = 1, reach: float = np.inf) -> tuple[Indices, Indices]:
        """The nearest leaves of each vector, in the nearest six cells: (position, leaf), at most `count` for each.

        Of equally near ones, the first.

        reach: by how much the product with the nearest may be larger than with another.
        """
        found, leaves = [(np.empty(0, np.int64), np.empty(0, np.int64))], widened(self.leaves)
        for begin in range(0, len(vectors), _AT_ONCE):
            row, leaf = self._of(vectors[begin : begin + _AT_ONCE], leaves, count, reach)
            found.append((begin + row, leaf))
        return np.concatenate([row for row, _ in found]), np.concatenate([leaf for _, leaf in found])

    def _of(self, vectors: Vectors, leaves: Floats, count: int, reach: float) -> tuple[Indices, Indices]:
        products, cells, width = self._products(vectors, leaves, max(_CELLS, count))
        clear = 2 * margin(vectors.shape[1])
        # No leaf is chosen that is farther than `reach`, or than `count` others.
        # All products are above -2, and where there is no leaf is -inf.
        least = np.maximum(products.max(1) - reach, _at_rank(products, count)).clip(-2) - clear
        row, place = np.divmod(np.flatnonzero(products >= least[:, None]), products.shape[1])
        value, (cell, within) = products[row, place].astype(np.float64), np.divmod(place, width)
        leaf = self.starts[cells[row, cell]] + within

        def ranked() -> tuple[Indices, npt.NDArray[np.float64], Indices]:
            """By rows and values: the order, by how much the row's best is larger, and the rank within the row."""
            order = np.lexsort((leaf, -value, row))
            start = np.flatnonzero(np.diff(row[order], prepend=-1))
            size = np.diff(np.append(start, len(order)))
            gap = np.repeat(value[order[start]], size) - value[order]
            return order, gap, np.arange(len(order)) - np.repeat(start, size)

        order, gap, rank = ranked()
        # The last that is chosen and the next are about as near, or one is about as far as the reach.
        even = np.append(rank[1:] == count, False) & (np.diff(gap, append=np.inf) <= clear)
        unsure = np.zeros(len(vectors), np.bool_)
        unsure[row[order[even | ((rank > 0) & (rank < count) & (np.abs(gap - reach) <= clear))]]] = True
        again = np.flatnonzero(unsure[row])
        if len(again):
            value[again] = exact_pairs(vectors[row[again]], self.leaves[leaf[again]])
            order, gap, rank = ranked()
        chosen = order[(rank < count) & (gap <= reach)]
        return row[chosen], leaf[chosen]

    def _products(self, vectors: Vectors, leaves: Floats, count: int) -> tuple[Floats, Indices, int]:
        """Those with the leaves of the nearest cells, [n, cells * width], -inf for none; these cells, [n, cells]."""
        wide, size = widened(vectors), np.diff(self.starts)
        cells = nearest(vectors, self.cells, count, wide=wide)
        products = np.full((*cells.shape, int(size.max())), -np.inf, np.float32)
        every = cells.ravel().astype(np.uint16)  # there are hundreds at most, and 16 bits are sorted by counting
        order = np.argsort(every, kind="stable")
        ends = np.searchsorted(every[order], np.arange(len(size) + 1))
        row, column = np.divmod(order, cells.shape[1])
        for cell, (begin, end) in enumerate(pairwise(ends)):
            if begin < end:
                own = leaves[self.starts[cell] : self.starts[cell + 1]]
                products[row[begin:end], column[begin:end], : len(own)] = wide[row[begin:end]] @ own.T
        return products.reshape(len(vectors), -1), cells, products.shape[2]


def clusters_of(sample: Vectors, count: int, iterations: int) -> Clusters:
    """About `count` clusters, fitted to a sample in an order of chance: [n, D], float16, of unit length.

    It takes all cores: what is clustered waits for it.
    """
    count = min(count, len(sample))
    cells = k_means(sample[: _ROWS_PER_CELL * max(1, round(count**0.5))], max(1, round(count**0.5)), iterations)
    member = nearest(sample, cells)[:, 0]

    def within(cell: int) -> Vectors:
        rows = sample[member == cell]
        own = count * len(rows) / len(sample)
        # Products with a multiple of sixteen vectors are the fastest.
        own = round(own) if own < _MULTIPLES else 16 * round(own / 16)
        return k_means(rows, max(1, own), iterations) if len(rows) else cells[cell : cell + 1]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        leaves = list(pool.map(within, range(len(cells))))
    return Clusters(cells, np.concatenate(leaves), np.cumsum([0, *map(len, leaves)]))


def k_means(vectors: Vectors, count: int, iterations: int) -> Vectors:
    """Centroids after so many rounds of Lloyd's algorithm, or when nothing changes: at most `count`, [k, D].

    The first are the first vectors that differ.  A centroid without vectors takes the place of the vector that is
    farthest from its own.
    """
    _, first = np.unique(by_value(vectors), return_index=True)
    centroids = vectors[np.sort(first)[:count]]
    member, wide = np.full(len(vectors), -1), widened(vectors)
    for _ in range(iterations):
        was, member = member, nearest(vectors, centroids, wide=wide)[:, 0]
        if (was == member).all():
            break
        centroids = _means(vectors, wide, member, centroids)
    return centroids


def _means(vectors: Vectors, wide: npt.NDArray[np.float32], member: Indices, before: Vectors) -> Vectors:
    """The mean direction of each cluster's vectors, [k, D]."""
    from scipy.sparse import csr_array  # not needed to read a recipe, and slow to import

    sums = np.zeros(before.shape)
    for begin in range(0, len(vectors), BLOCK):
        part = member[begin : begin + BLOCK]
        ones = csr_array((np.ones(len(part)), part, np.arange(len(part) + 1)), shape=(len(part), len(before)))
        sums += ones.T @ wide[begin : begin + BLOCK].astype(np.float64)
    length = np.sqrt((sums * sums).sum(1, keepdims=True))
    means = np.where(length > 0, sums / np.where(length > 0, length, 1), before).astype(np.float16)
    empty = np.flatnonzero(np.bincount(member, minlength=len(before)) == 0)
    if len(empty):
        apart = np.argsort(exact_pairs(vectors, before[member]), kind="stable")
        means[empty] = vectors[apart[: len(empty)]]
    return means


def _at_rank(products: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.float32]:
    """The `count`-th largest of each row, [n]; -inf where there are fewer."""
    every, taken = np.arange(len(products)), []
    for _ in range(min(count, products.shape[1]) - 1):
        place = products.argmax(1)
        taken.append((place, products[every, place]))
        products[every, place] = -np.inf
    last: npt.NDArray[np.float32] = products.max(1)
    for place, value in taken:
        products[every, place] = value
    return last
