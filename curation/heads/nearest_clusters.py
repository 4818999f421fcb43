"""The cluster of a picture, and whether it is one that pictures of a reference set are in.

    cluster_i  the centroid c_k with the largest x_i . c_k
    near_i     whether it is that of some reference

DataComp's image-based filter (Gadre et al. 2023, section 3.2) keeps what is near to ImageNet in this way, by 100,000
centroids that faiss found among the pool's embeddings; a centroid has the length that it has, so products are not
cosines.  `pairmill fit-clusters` takes such centroids, or finds its own in a sample of a run.

Shapes: N pictures, K centroids, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from curation.duplicates.exact_products import Vectors, margin, widened
from curation.duplicates.vector_clusters import clusters_of
from curation.embedding.vectors import vectors_of
from curation.heads.fitted_tensors import FittedHead, load_tensors
from pairmill.errors import InputError
from pairmill.registry import NamedConfig

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

#: Pictures of the sample for each centroid: faiss warns below 39.
PER_CLUSTER = 64

_ITERATIONS = 20  # DataComp's

#: Products that are computed at once: 64 MB.
_PRODUCTS = 1 << 24


class NearestClustersConfig(NamedConfig):
    """Which centroids."""

    embedding: str = Field(description="name in the section `embed`")
    weights: Path = Field(description="file of `pairmill fit-clusters`, of that embedding")


class NearestClusters(FittedHead):
    """The nearest centroid of a picture, of a file of `pairmill fit-clusters`.

    Columns: NAME, its number; NAME_near, whether it is the nearest of some reference, null if there were none.
    """

    Config = NearestClustersConfig
    columns = pa.schema([("cluster", pa.int32()), ("near", pa.bool_())])

    def __init__(self, config: NearestClustersConfig) -> None:
        found = load_tensors(config.weights, "clusters", {"centroids": ("clusters", "D"), "near": ("clusters",)})
        self._centroids = found.arrays["centroids"].astype(np.float32)
        self.size = self._centroids.shape[1]
        self._near = found.arrays["near"].astype(np.bool_)
        self._referred = bool(found.about.get("references"))

    def __call__(self, images: pa.Array | pa.ChunkedArray) -> pa.Table:
        """Its columns; null where a picture has no vector."""
        vectors, mask = vectors_of(images)
        cluster = np.zeros(len(mask), np.int32)
        if mask.any():
            cluster[mask] = nearest_centroids(vectors, self._centroids)
        near = pa.array(self._near[cluster], pa.bool_(), mask=~mask | (not self._referred))
        return pa.table([pa.array(cluster, pa.int32(), mask=~mask), near], schema=self.columns)


def fit_clusters(sample: Vectors, count: int) -> Floats:
    """About so many centroids of a sample in an order of chance, [K, D], by k-means in two levels.

    Raises InputError for fewer vectors than centroids.
    """
    if len(sample) < count:
        raise InputError(
            "there must be as many embedded rows as clusters, or more",
            value=f"{len(sample)} rows for {count} clusters",
            fix="ask for fewer with --clusters, or curate more rows",
        )
    return clusters_of(sample, count, _ITERATIONS).leaves.astype(np.float32)


def near_clusters(references: Iterable[Vectors], centroids: Floats) -> tuple[npt.NDArray[np.bool_], int]:
    """Mask of the centroids that are nearest to some reference, [K], and how many references there are."""
    near, count = np.zeros(len(centroids), np.bool_), 0
    for some in references:
        near[nearest_centroids(some, centroids)] = True
        count += len(some)
    return near, count


def nearest_centroids(vectors: Vectors, centroids: Floats) -> Indices:
    """The centroid with the largest product with each vector, [N]; of equal ones, the first.

    Where float32 does not decide, a sum in float64 does that does not depend on the other rows.
    """
    found = np.empty(len(vectors), np.int64)
    block = max(1, _PRODUCTS // len(centroids))
    longest = float(np.sqrt(np.square(centroids, dtype=np.float64).sum(1)).max())
    wrong = margin(vectors.shape[1] if vectors.ndim > 1 else 1) * longest
    for begin in range(0, len(vectors), block):
        some = widened(vectors[begin : begin + block])
        products = some @ centroids.T
        best = products.argmax(1)
        length = np.sqrt(np.square(some, dtype=np.float64).sum(1))
        candidates = products >= (products[np.arange(len(some)), best] - wrong * length)[:, None]
        for row in np.flatnonzero(candidates.sum(1) > 1):
            among = np.flatnonzero(candidates[row])
            sums = (centroids[among].astype(np.float64) * some[row].astype(np.float64)).sum(1)
            best[row] = among[sums.argmax()]
        found[begin : begin + block] = best
    return found


def check_centroids(found: Any, size: int, file: Path) -> Floats:
    """Centroids of a file as [K, D], float32.  Raises InputError for another form, or another D than `size`."""
    good = isinstance(found, np.ndarray) and found.ndim == 2 and np.issubdtype(found.dtype, np.floating)
    if not good or not len(found) or not np.isfinite(found).all() or found.shape[1] != size:
        raise InputError(
            f"--centroids must name a file of finite numbers [clusters, {size}], as the embedding has {size}",
            value=f"{file}: {found.dtype} {list(found.shape)}" if isinstance(found, np.ndarray) else str(file),
            fix="save them with numpy.save(FILE, array)",
        )
    return np.asarray(found, np.float32)
