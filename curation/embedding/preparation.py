"""Encoded pictures to pixels of a model's size: one decode, and one scaling for all models that see pictures alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curation.schema import set_columns


class Preparation(NamedTuple):
    """How a model's pictures are scaled: the arguments of `pairmill.towers.eval_transform.EvalTransform`.

    boxes: the column of what is painted over before that; "": nothing.
    """

    size: int
    resize_mode: str = "shortest"
    interpolation: str = "bicubic"
    fill_color: int = 0
    boxes: str = ""

    @property
    def column(self) -> str:
        """The private column of a block that holds such pixels: `size` x `size` x 3 bytes a row, null without any."""
        return f"_pixels_{self.size}_{self.resize_mode}_{self.interpolation}_{self.fill_color}_{self.boxes}"


def with_pixels(rows: pa.Table, mask: npt.NDArray[np.bool_], wanted: Iterable[Preparation]) -> pa.Table:
    """The rows with a column of pixels for each preparation; null outside of `mask` and for damaged pictures.

    rows: with `image`, encoded, and the columns of `boxes`.  mask: [R]; true only where those are not null.
    """
    preparations = list(dict.fromkeys(wanted))
    some = rows.filter(pa.array(mask))
    images = some["image"].combine_chunks()
    boxes = {one.boxes: some[one.boxes].to_pylist() for one in preparations if one.boxes}
    at = np.flatnonzero(mask)
    for preparation, (pixels, there) in zip(preparations, pixels_of(images, preparations, boxes), strict=True):
        rows = set_columns(rows, {preparation.column: _binary(pixels, at[there], len(rows))})
    return rows


def pixels_of(
    images: Iterable[Any], preparations: Sequence[Preparation], boxes: Mapping[str, Sequence[Any]] | None = None
) -> list[tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]]:
    """For each preparation, the pixels uint8 [N, size, size, 3] of the pictures that can be decoded, and their mask.

    images: [M], bytes or scalars of Arrow; None and null are no pictures.  boxes: the columns that preparations name,
    a value of each picture in each.
    """
    from curation.embedding.painting import paint_over
    from curation.heads.boxes import outlines
    from pairmill.towers.eval_transform import EvalTransform, decode

    transforms = [
        EvalTransform(one.size, resize_mode=one.resize_mode, interpolation=one.interpolation, fill_color=one.fill_color)
        for one in preparations
    ]
    given = list(images)
    # A shard's pixels are hundreds of megabytes: they are written to their place, and only there.
    found = [np.empty((len(given), one.size, one.size, 3), np.uint8) for one in preparations]
    there = np.zeros(len(given), np.bool_)
    decoded = 0
    for at, image in enumerate(given):
        data = image.as_py() if isinstance(image, pa.Scalar) else image
        whole = None if data is None else decode(data)
        if whole is not None:
            seen = {"": whole}
            for preparation, transform, pixels in zip(preparations, transforms, found, strict=True):
                if preparation.boxes not in seen:
                    over = (boxes or {})[preparation.boxes][at]
                    seen[preparation.boxes] = paint_over(whole, outlines(over))
                pixels[decoded] = transform.of_pixels(seen[preparation.boxes])
            there[at], decoded = True, decoded + 1
    return [(pixels[:decoded], there) for pixels in found]


def _binary(pixels: npt.NDArray[np.uint8], at: npt.NDArray[np.int64], rows: int) -> pa.Array:
    """A column of `rows` rows: the pixels of each picture at its place, in their own memory, and nulls between."""
    valid = np.zeros(rows, np.bool_)
    valid[at] = True
    each = int(np.prod(pixels.shape[1:]))
    # Offsets of 32 bits end at 2 GiB: 3,500 pictures of 448 px.
    offsets = np.concatenate([[0], np.cumsum(valid)]).astype(np.int64) * each
    bits = pa.array(valid).buffers()[1]
    buffers = [bits, pa.py_buffer(offsets), pa.py_buffer(pixels)]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), rows, buffers, rows - len(at))


def stacked(column: pa.Array | pa.ChunkedArray, size: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """The pixels uint8 [N, size, size, 3] of a column's rows that have some, without a copy, and their mask [R]."""
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    mask = np.asarray(column.is_valid())
    if not mask.any():
        return np.zeros((0, size, size, 3), np.uint8), mask
    _, offsets, data = column.buffers()
    ends = np.frombuffer(offsets, np.int64)[column.offset : column.offset + len(column) + 1]
    # A null may lie over bytes, where a column was filtered.
    if ends[-1] - ends[0] != mask.sum() * size * size * 3:
        return stacked(column.drop_null(), size)[0], mask
    return np.frombuffer(data, np.uint8)[ends[0] : ends[-1]].reshape(-1, size, size, 3), mask
