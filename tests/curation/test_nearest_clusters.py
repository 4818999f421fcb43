"""Clusters of pictures: the nearest centroid, by brute force, and which are near to a reference set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.embedding.vectors import vector_column
from curation.heads import nearest_clusters
from curation.heads.fitted_tensors import save_tensors
from curation.heads.nearest_clusters import (
    NearestClusters,
    NearestClustersConfig,
    fit_clusters,
    near_clusters,
    nearest_centroids,
)
from pairmill.errors import InputError, RecipeError

D = 16


def unit(rows: int, seed: int = 0) -> Any:
    vectors = np.random.default_rng(seed).standard_normal((rows, D))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def brute(vectors: Any, centroids: Any) -> list[int]:
    """The first centroid with the largest product, summed number by number."""
    found = []
    for vector in vectors.astype(np.float64):
        products = [float((vector * one).sum()) for one in centroids.astype(np.float64)]
        found.append(products.index(max(products)))
    return found


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 30), st.integers(0, 10**6), st.floats(1e-6, 10))
def test_the_nearest_centroid_has_the_largest_product_whatever_its_length(
    rows: int, count: int, seed: int, spread: float
) -> None:
    rng = np.random.default_rng(seed)
    centroids = (unit(count, seed + 1) * (1 + spread * rng.random((count, 1)))).astype(np.float32)
    # Copies, and some that differ in one bit of float32.
    centroids = np.concatenate([centroids, centroids[:3], np.nextafter(centroids[:3], np.float32(2))])
    vectors = unit(rows, seed + 2)
    assert nearest_centroids(vectors, centroids).tolist() == brute(vectors, centroids)


def test_a_row_has_the_same_cluster_among_any_others(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, centroids = unit(500), unit(64, 1).astype(np.float32)
    whole = nearest_centroids(vectors, centroids)
    monkeypatch.setattr(nearest_clusters, "_PRODUCTS", 64 * 7)
    assert (nearest_centroids(vectors, centroids) == whole).all()
    assert [int(nearest_centroids(vectors[at : at + 1], centroids)[0]) for at in range(0, 500, 9)] == whole[
        ::9
    ].tolist()


def head(tmp_path: Path, references: int) -> NearestClusters:
    centroids = unit(12, 3).astype(np.float32)
    near, count = near_clusters([unit(references, 4)] if references else [], centroids)
    arrays = {"centroids": centroids, "near": near.astype(np.uint8)}
    save_tensors(tmp_path / "clusters.safetensors", "clusters", arrays, {"references": count})
    config = NearestClustersConfig(name="clusters", embedding="x", weights=tmp_path / "clusters.safetensors")
    return NearestClusters.load(config)


def test_the_head_says_which_cluster_and_whether_a_reference_is_in_it(tmp_path: Path) -> None:
    mask = np.arange(50) % 3 != 0
    made = head(tmp_path, 5)(vector_column(unit(int(mask.sum())), mask))
    own = iter(brute(unit(int(mask.sum())), unit(12, 3).astype(np.float32)))
    of_references = set(brute(unit(5, 4), unit(12, 3).astype(np.float32)))
    assert 0 < len(of_references) < 12
    expected = []
    for there in mask:
        cluster = next(own) if there else None
        expected.append({"cluster": cluster, "near": cluster in of_references if there else None})
    assert made.to_pylist() == expected
    alone = head(tmp_path, 0)(vector_column(unit(4), np.ones(4, np.bool_)))
    assert alone["near"].null_count == 4 and alone["cluster"].null_count == 0


def test_a_file_of_another_embedding_is_refused(tmp_path: Path) -> None:
    config = head(tmp_path, 1)
    given = NearestClustersConfig(name="clusters", embedding="x", weights=tmp_path / "clusters.safetensors")
    with pytest.raises(RecipeError, match="gives 3"):
        type(config).probe(given, {"image_embedding_x": pa.list_(pa.float16(), 3)})


def test_a_file_that_is_none_names_the_command_that_writes_one(tmp_path: Path) -> None:
    (tmp_path / "clusters.safetensors").write_bytes(b"nothing")
    given = NearestClustersConfig(name="clusters", embedding="x", weights=tmp_path / "clusters.safetensors")
    with pytest.raises(RecipeError, match="must be a file of `pairmill fit-clusters`"):
        NearestClusters(given)


def test_centroids_of_a_sample_divide_it() -> None:
    things = unit(9, 8).astype(np.float64)
    which = np.random.default_rng(1).integers(9, size=900)
    vectors = things[which] + 0.05 * np.random.default_rng(2).standard_normal((900, D))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    centroids = fit_clusters(vectors, 9)
    assert 3 <= len(centroids) <= 18 and centroids.dtype == np.float32
    # Pictures of different things are in different clusters.
    found = nearest_centroids(vectors, centroids)
    assert all(len(set(which[found == one])) <= 2 for one in set(found.tolist()))
    assert (fit_clusters(vectors, 9) == centroids).all()
    with pytest.raises(InputError, match="as many embedded rows"):
        fit_clusters(vectors[:8], 9)
