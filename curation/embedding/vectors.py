"""Unit vectors as columns: fixed-size lists of float16, null where there is none."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def vector_type(dimensions: int | None) -> pa.DataType:
    """The type of a column of vectors.  dimensions: None where the model that would say it is gone."""
    element = pa.field("element", pa.float16())
    return pa.list_(element) if dimensions is None else pa.list_(element, dimensions)


def vector_column(vectors: npt.NDArray[np.floating], mask: npt.NDArray[np.bool_]) -> pa.Array:
    """`vectors` [N, D], one for each true of `mask` [R], at those places of a column of R; null elsewhere."""
    placed = np.zeros((len(mask), vectors.shape[1]), np.float16)
    placed[mask] = vectors
    kind = vector_type(vectors.shape[1])
    return pa.FixedSizeListArray.from_arrays(pa.array(placed.reshape(-1)), type=kind, mask=pa.array(~mask))


def vectors_of(column: pa.Array | pa.ChunkedArray) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.bool_]]:
    """The vectors [N, D] of a column's rows that have one, and the mask [R] of those rows."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    mask = np.asarray(array.is_valid())
    values = array.drop_null().flatten().to_numpy(zero_copy_only=False).astype(np.float16, copy=False)
    return values.reshape(int(mask.sum()), -1) if mask.any() else values.reshape(0, 0), mask
