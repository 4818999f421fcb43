"""k-means in two levels: the clusters of a plain k-means, in fewer products, whatever the order of sums."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from curation.duplicates.exact_products import exact
from curation.duplicates.vector_clusters import Clusters, clusters_of, k_means

Vectors = npt.NDArray[np.float16]


def around(centres: int, each: int, spread: float, seed: int = 0, dimensions: int = 32) -> tuple[Vectors, list[int]]:
    """Vectors around random centres, shuffled, and the centre of each."""
    rng = np.random.default_rng(seed)
    middle = rng.standard_normal((centres, dimensions))
    middle /= np.linalg.norm(middle, axis=1, keepdims=True)
    which = rng.permutation(np.repeat(np.arange(centres), each))
    found = middle[which] + rng.standard_normal((len(which), dimensions)) * spread / dimensions**0.5
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float16), which.tolist()


def plain(vectors: Vectors, count: int, iterations: int) -> npt.NDArray[np.float64]:
    """Lloyd's algorithm as a textbook has it, in float64 throughout."""
    points = vectors.astype(np.float64)
    centres = points[:count]
    for _ in range(iterations):
        member = (points @ centres.T).argmax(1)
        centres = np.stack([points[member == at].sum(0) for at in range(count)])
        centres /= np.linalg.norm(centres, axis=1, keepdims=True)
        centres = centres.astype(np.float16).astype(np.float64)
    return centres


def test_k_means_is_lloyd_s_algorithm() -> None:
    vectors, _ = around(6, 60, 0.6)
    assert np.array_equal(k_means(vectors, 6, 5).astype(np.float64), plain(vectors, 6, 5))


def test_tight_groups_are_found() -> None:
    vectors, which = around(12, 40, 0.1)
    clusters = clusters_of(vectors, 48, 20)
    row, leaf = clusters.of(vectors, 1)
    assert row.tolist() == list(range(len(vectors)))
    groups = {(cluster, which[at]) for at, cluster in zip(row.tolist(), leaf.tolist(), strict=True)}
    # No cluster has vectors of two groups.
    assert len({cluster for cluster, _ in groups}) == len(groups)


def test_the_leaf_is_the_nearest_of_the_nearest_cells() -> None:
    vectors, _ = around(100, 20, 0.9, seed=2)
    clusters = clusters_of(vectors, 400, 10)
    assert len(clusters.cells) == 20
    assert clusters.starts[0] == 0
    assert clusters.starts[-1] == len(clusters.leaves)
    cells = np.argsort(-exact(vectors, clusters.cells), axis=1, kind="stable")[:, :6]
    for count in (1, 2, 3):
        row, leaf = clusters.of(vectors, count)
        assert np.bincount(row).tolist() == [count] * len(vectors)
        for at in range(0, len(vectors), 37):
            known = np.concatenate([np.arange(*clusters.starts[cell : cell + 2]) for cell in sorted(cells[at])])
            products = exact(vectors[at : at + 1], clusters.leaves[known])[0]
            nearest = known[np.argsort(-products, kind="stable")[:count]]
            assert sorted(leaf[row == at].tolist()) == sorted(nearest.tolist())


@pytest.mark.parametrize("reach", [0.0, 0.05, 0.3])
def test_further_leaves_are_those_within_reach_of_the_nearest(reach: float) -> None:
    vectors, _ = around(40, 20, 0.9, seed=5)
    clusters = clusters_of(vectors, 60, 10)
    row, leaf = clusters.of(vectors, 3)
    products = exact(vectors, clusters.leaves)[row, leaf]
    best = np.full(len(vectors), -np.inf)
    np.maximum.at(best, row, products)
    within = best[row] - products <= reach
    expected = set(zip(row[within].tolist(), leaf[within].tolist(), strict=True))
    row, leaf = clusters.of(vectors, 3, reach)
    assert set(zip(row.tolist(), leaf.tolist(), strict=True)) == expected
    assert len(vectors) <= len(row)


def test_a_search_in_two_levels_finds_nearly_what_comparing_all_finds() -> None:
    vectors, _ = around(200, 20, 0.7, seed=3)
    clusters = clusters_of(vectors, 100, 10)
    nearest = exact(vectors, clusters.leaves).argmax(1)
    _, leaf = clusters.of(vectors, 1)
    assert (leaf == nearest).mean() > 0.9


def test_rows_are_where_they_are_however_they_are_cut() -> None:
    vectors, _ = around(30, 30, 0.8, seed=4)
    clusters = clusters_of(vectors, 25, 5)
    _, whole = clusters.of(vectors, 1)
    order = np.random.default_rng(0).permutation(len(vectors))
    assert np.array_equal(clusters.of(vectors[order], 1)[1], whole[order])
    assert np.array_equal(np.concatenate([clusters.of(vectors[at : at + 1], 1)[1] for at in range(100)]), whole[:100])


@pytest.mark.parametrize("count", [1, 2, 5, 100])
def test_fewer_vectors_than_clusters_and_equal_vectors_are_no_trouble(count: int) -> None:
    one, _ = around(1, 1, 0.1)
    for vectors in (one, np.repeat(one, 50, axis=0), around(3, 1, 0.1)[0]):
        clusters = clusters_of(vectors, count, 3)
        assert len(clusters.leaves) <= max(1, min(count, len(vectors)))
        row, leaf = clusters.of(vectors, 1)
        assert row.tolist() == list(range(len(vectors)))
        assert leaf.max() < len(clusters.leaves)


def test_more_probes_than_clusters_give_each_cluster_once() -> None:
    vectors, _ = around(3, 5, 0.5)
    row, leaf = clusters_of(vectors, 3, 3).of(vectors, 16)
    assert len(set(zip(row.tolist(), leaf.tolist(), strict=True))) == len(row)


def test_no_vectors_have_no_clusters() -> None:
    cell = around(1, 1, 0.1)[0]
    row, leaf = Clusters(cell, cell, np.array([0, 1])).of(cell[:0], 1)
    assert len(row) == len(leaf) == 0


def test_a_cluster_without_vectors_takes_the_farthest() -> None:
    # Two of the first three are the same direction but for a bit, so one of them is soon empty or alone.
    tight, _ = around(1, 30, 0.01)
    far, _ = around(1, 1, 0.01, seed=9)
    found = k_means(np.concatenate([tight, far]), 3, 20)
    assert exact(found, far).max() > 0.99
