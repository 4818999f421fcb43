"""The command `fit-clusters`: centroids of a run's embeddings, and which of them a reference set is near to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation.embedding.sampled import sampled
from curation.embedding.vectors import vectors_of
from curation.heads.fitted_tensors import save_tensors
from curation.heads.nearest_clusters import PER_CLUSTER, check_centroids, fit_clusters, near_clusters
from pairmill.errors import InputError, PairmillError
from pairmill.store import Store
from pipelines.fit_filter import embedder, up_to_date
from pipelines.fit_noise import check_selection

#: Rows of the sample at most, if the command does not say: of 768 numbers each 400 MB.
_MOST_SAMPLED = 1 << 18

_AT_A_TIME = 4096


def fit_clusters_of(
    store: Store,
    recipe: Any,
    embedding: str,
    file: Path,
    *,
    clusters: int | None = None,
    centroids: Path | None = None,
    references: Path | None = None,
    rows: int | None = None,
    seed: int = 0,
    selection: str | None = None,
) -> dict[str, Any]:
    """Write the file of a head `clusters`, and return its figures.

    embedding: a name in the recipe's section `embed`.  centroids: .npy [K, D], in place of ones of the run.
    references: embeddings of the same model: .npy [n, D], a Parquet file, or a folder of them, such as `columns/embed-
    NAME` of another run; read a part at a time.  rows: of the sample at most.  selection: of the run, for the sample.
    Raises RecipeError for an unknown embedding or selection, InputError for files of another form, too few rows, and
    neither or both of clusters and centroids.
    """
    if (clusters is None) == (centroids is None):
        raise InputError(
            "fit-clusters must be given either --clusters or --centroids",
            value="both" if clusters is not None else "neither",
            fix="give one of them",
        )
    check_selection(store, selection)
    stage = embedder(recipe, embedding)
    table = up_to_date(store, recipe, stage)
    column = stage.column_names()[0]
    most = rows or min(_MOST_SAMPLED, PER_CLUSTER * (clusters or 1))
    sample = sampled(store, table, [column], rows=most if clusters else 1, seed=seed, selection=selection)
    vectors = vectors_of(sample[column])[0] if len(sample) else np.zeros((0, 1), np.float16)
    size = vectors.shape[1]
    if centroids is not None:
        found = check_centroids(_loaded(centroids, "--centroids"), size, centroids)
    else:
        found = fit_clusters(vectors, clusters or 1)
    near, count = near_clusters(_references(references, column, size), found)
    about = {
        "clusters": len(found),
        "references": count,
        "near": int(near.sum()),
        "sampled": len(sample) if clusters else 0,
        "seed": seed,
        "embedding": f"{stage.config.model} {stage.revision()}",
    }
    save_tensors(file, "clusters", {"centroids": found, "near": near.astype(np.uint8)}, about)
    return {"path": str(file), **about}


def _references(path: Path | None, column: str, size: int) -> Iterator[np.ndarray[Any, np.dtype[np.float16]]]:
    """Unit vectors [n, D] of a reference set, a part at a time; none of it is silently left out but what is null."""
    if path is None:
        return
    if path.suffix == ".npy":
        whole = _loaded(path, "--references")
        if not isinstance(whole, np.ndarray) or whole.ndim != 2 or not np.issubdtype(whole.dtype, np.floating):
            raise _refused(path, f"{getattr(whole, 'dtype', None)} {list(getattr(whole, 'shape', []))}", size)
        parts: Iterator[Any] = (whole[at : at + _AT_A_TIME] for at in range(0, len(whole), _AT_A_TIME))
    else:
        parts = _of_parquet(path, column, size)
    for part in parts:
        length = np.linalg.norm(np.asarray(part, np.float64), axis=1, keepdims=True)
        if part.shape[1] != size or not np.isfinite(length).all() or not (length > 0).all():
            raise _refused(path, f"vectors of {part.shape[1]} numbers, or none that has a direction", size)
        yield (np.asarray(part, np.float64) / length).astype(np.float16)


def _of_parquet(path: Path, column: str, size: int) -> Iterator[Any]:
    files = sorted(path.glob("**/*.parquet")) if path.is_dir() else [path]
    if not files:
        raise _refused(path, "no .parquet file in it", size)
    for file in files:
        try:
            opened = pq.ParquetFile(file)
        except (OSError, pa.ArrowException) as error:
            raise _refused(file, str(error).splitlines()[0], size) from error
        with opened:
            schema = opened.schema_arrow
            lists = [field.name for field in schema if _of_numbers(field.type)]
            name = column if column in lists else lists[0] if len(lists) == 1 else None
            if name is None:
                raise _refused(file, f"no column {column}, and not one list of numbers alone: {lists}", size)
            for batch in opened.iter_batches(_AT_A_TIME, columns=[name]):
                values = batch.column(0).drop_null()
                flat = values.flatten().cast(pa.float32()).to_numpy(zero_copy_only=False)
                if len(flat) != size * len(values):
                    raise _refused(file, f"lists of other lengths in {name}", size)
                if len(values):
                    yield flat.reshape(len(values), size)


def _of_numbers(kind: pa.DataType) -> bool:
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(lists and pa.types.is_floating(kind.value_type))


def _loaded(path: Path, option: str) -> Any:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"{option} must name a .npy file of numbers",
            value=f"{path}: {str(error).splitlines()[0]}",
            fix="save the array with numpy.save(FILE, array)",
        ) from error


def _refused(path: Path, why: str, size: int) -> PairmillError:
    return InputError(
        f"--references must hold embeddings of {size} numbers each, as the run's",
        value=f"{path}: {why}",
        fix="give .npy [n, D], Parquet with a column of lists, or `columns/embed-NAME` of a run with the same model",
    )
