"""How far apart the colours of two pictures are, from what `curation.images.measure.colour_layout` keeps of each.

Every picture has 64 parts, and each part a point: half its luma, Cb and Cr.  The distance of two pictures is the
largest of the 64 distances of their points.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curation.duplicates.kinds import Indices
from pairmill.errors import RunDirError

Layouts = npt.NDArray[np.uint8]

#: Numbers of a layout, a byte each.
NUMBERS = 192

#: Numbers of layouts that are subtracted at once: 3 MB as int32.
_CHUNK = 3 << 18


def known(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Mask of the rows that have a layout.  Raises RunDirError for one of another length: other code made it."""
    length = pc.binary_length(column)
    if others := set(pc.unique(length).to_pylist()) - {None, NUMBERS}:
        raise RunDirError(
            "pictures whose colours are compared must have been measured by this version of pairmill",
            value=f"colours of {max(others)} bytes, which are of {NUMBERS} now",
            fix="curate the run that they come from, this one or one of against, again with this version, or leave "
            "out the kind of duplicates or matches that compares colours",
        )
    return length.is_valid()


def layouts(column: pa.ChunkedArray) -> Layouts:
    """The layouts of rows, [n, 64, 3].  Raises ArrowInvalid for values of another length."""
    fixed = column.combine_chunks().cast(pa.binary(NUMBERS))
    if not len(fixed):
        return np.empty((0, NUMBERS // 3, 3), np.uint8)
    data = np.frombuffer(fixed.buffers()[1], np.uint8)
    at = fixed.offset * NUMBERS
    return data[at : at + len(fixed) * NUMBERS].reshape(len(fixed), NUMBERS // 3, 3)


def coarse(fine: Layouts) -> Layouts:
    """The layouts of 4 x 4 parts, [n, 16, 3], from those of 8 x 8, [n, 64, 3]: each part the mean of 2 x 2."""
    sums = fine.reshape(-1, 4, 2, 4, 2, 3).sum((2, 4), dtype=np.uint16)
    means: Layouts = ((sums + 2) // 4).astype(np.uint8)
    return means.reshape(-1, 16, 3)


def within(a: Layouts, one: Indices, b: Layouts, other: Indices, most: int) -> npt.NDArray[np.bool_]:
    """Mask of the pairs a[one[i]], b[other[i]] whose distance is at most `most`."""
    found = np.zeros(len(one), np.bool_)
    step = _CHUNK // (a.shape[1] * a.shape[2])
    for begin in range(0, len(one), step):
        left, right = one[begin : begin + step], other[begin : begin + step]
        # Most pairs that differ do so in any of a few numbers.
        few = a[:, ::5, 0][left].astype(np.int16) - b[:, ::5, 0][right]
        at = np.flatnonzero((np.abs(few) <= most).all(1))
        apart = a[left[at]].astype(np.int32) - b[right[at]]
        found[begin + at] = np.einsum("nkc,nkc->nk", apart, apart).max(-1) <= most * most
    return found


def leaders(starts: npt.NDArray[np.bool_], colours: Layouts, most: int) -> Indices:
    """For each row the position of the leader of its colours, [n]; a leader is its own.

    starts: where a group of rows begins.  The row of a group that is the first by `_by_value` leads all of it that is
    within `most` of it; of the rest the first leads what is within `most` of it, and so on, so that the order of the
    rows does not matter.  Time is O(rows x leaders of their group).
    """
    group = np.cumsum(starts) - 1
    leader: Indices = np.arange(len(starts))
    left = np.flatnonzero(np.bincount(group, minlength=1)[group] > 1)  # rows that are alone lead themselves
    left = left[np.lexsort((_by_value(colours)[left], group[left]))]
    while len(left):
        begins = np.ones(len(left), np.bool_)
        begins[1:] = group[left[1:]] != group[left[:-1]]
        leader[left] = left[np.flatnonzero(begins)[np.cumsum(begins) - 1]]
        left = left[~within(colours, left, colours, leader[left], most)]
    return leader


def _by_value(colours: Layouts) -> npt.NDArray[np.uint64]:
    """A number for each layout that depends on nothing else."""
    words = np.ascontiguousarray(colours).reshape(len(colours), NUMBERS).view(np.uint64)
    odd = np.random.default_rng(0).integers(0, 2**63, words.shape[1], dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    summed: npt.NDArray[np.uint64] = words @ odd  # modulo 2^64
    return summed
