"""Encoded pictures to pixels of a model's size: one decode, and one scaling for all models that see pictures alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curation.schema import set_columns


class Preparation(NamedTuple):
    """How a model's pictures are scaled: the arguments of `pairmill.towers.eval_transform.EvalTransform`."""

    size: int
    resize_mode: str = "shortest"
    interpolation: str = "bicubic"
    fill_color: int = 0

    @property
    def column(self) -> str:
        """The private column of a block that holds such pixels: `size` x `size` x 3 bytes a row, null without any."""
        return f"_pixels_{self.size}_{self.resize_mode}_{self.interpolation}_{self.fill_color}"


def with_pixels(rows: pa.Table, mask: npt.NDArray[np.bool_], wanted: Iterable[Preparation]) -> pa.Table:
    """The rows with a column of pixels for each preparation; null outside of `mask` and for damaged pictures.

    rows: with `image`, encoded.  mask: [R].
    """
    preparations = list(dict.fromkeys(wanted))
    images = rows["image"].combine_chunks().filter(pa.array(mask)).to_pylist()
    made = pixels_of(images, preparations)
    at = np.flatnonzero(mask)
    for preparation, pixels in zip(preparations, made, strict=True):
        placed: list[bytes | None] = [None] * len(rows)
        for row, one in zip(at, pixels, strict=True):
            placed[row] = None if one is None else one.tobytes()
        # Offsets of 32 bits end at 2 GiB: 3,500 pictures of 448 px.
        rows = set_columns(rows, {preparation.column: pa.array(placed, pa.large_binary())})
    return rows


def pixels_of(
    images: Sequence[bytes | None], preparations: Sequence[Preparation]
) -> list[list[npt.NDArray[np.uint8] | None]]:
    """For each preparation, uint8 [size, size, 3] of each picture; None without one, and for a damaged one."""
    from pairmill.towers.eval_transform import EvalTransform, decode

    transforms = [
        EvalTransform(one.size, resize_mode=one.resize_mode, interpolation=one.interpolation, fill_color=one.fill_color)
        for one in preparations
    ]
    found: list[list[npt.NDArray[np.uint8] | None]] = [[] for _ in preparations]
    for image in images:
        whole = None if image is None else decode(image)
        for transform, made in zip(transforms, found, strict=True):
            made.append(None if whole is None else transform.of_pixels(whole))
    return found


def stacked(column: pa.ChunkedArray, size: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """The pixels uint8 [N, size, size, 3] of a column's rows that have some, without a copy, and their mask [R]."""
    array = column.combine_chunks()
    mask = np.asarray(array.is_valid())
    there = array.drop_null()
    offsets = np.frombuffer(there.buffers()[1], np.int64)[there.offset : there.offset + len(there) + 1]
    data = there.buffers()[2]
    values = np.frombuffer(data, np.uint8) if data is not None and len(there) else np.empty(0, np.uint8)
    begin, end = (int(offsets[0]), int(offsets[-1])) if len(there) else (0, 0)
    return values[begin:end].reshape(len(there), size, size, 3), mask
