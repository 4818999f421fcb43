"""How far apart the colours of two pictures are, from what `curation.images.measure.colour_layout` keeps of each.

Every picture has 16 parts, and each part a point: half its luma, Cb and Cr.  The distance of two pictures is the
largest of the 16 distances of their points.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curation.duplicates.kinds import Indices

Layouts = npt.NDArray[np.uint8]

#: Numbers of a layout, a byte each.
_NUMBERS = 48

#: Pairs whose distance is computed at once: 3 MB as int32.
_CHUNK = 1 << 14


def layouts(column: pa.ChunkedArray) -> Layouts:
    """The layouts of rows, [n, 16, 3].  Raises ArrowInvalid for values of another length."""
    fixed = column.combine_chunks().cast(pa.binary(_NUMBERS))
    if not len(fixed):
        return np.empty((0, _NUMBERS // 3, 3), np.uint8)
    data = np.frombuffer(fixed.buffers()[1], np.uint8)
    at = fixed.offset * _NUMBERS
    return data[at : at + len(fixed) * _NUMBERS].reshape(len(fixed), _NUMBERS // 3, 3)


def within(a: Layouts, b: Layouts, most: int) -> npt.NDArray[np.bool_]:
    """Mask of the pairs a[i], b[i] whose distance is at most `most`."""
    found = np.zeros(len(a), np.bool_)
    for begin in range(0, len(a), _CHUNK):
        part = slice(begin, begin + _CHUNK)
        # Most pairs that differ do so in any of a few numbers.
        few = a[part, ::5, 0].astype(np.int16) - b[part, ::5, 0]
        at = np.flatnonzero((np.abs(few) <= most).all(1))
        apart = a[part][at].astype(np.int32) - b[part][at]
        found[begin + at] = (apart * apart).sum(-1).max(-1) <= most * most
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
    left = left[np.lexsort((_by_value(colours[left]), group[left]))]
    while len(left):
        begins = np.ones(len(left), np.bool_)
        begins[1:] = group[left[1:]] != group[left[:-1]]
        leader[left] = left[np.flatnonzero(begins)[np.cumsum(begins) - 1]]
        left = left[~within(colours[left], colours[leader[left]], most)]
    return leader


def _by_value(colours: Layouts) -> npt.NDArray[np.uint64]:
    """A number for each layout that depends on nothing else."""
    words = np.ascontiguousarray(colours).reshape(len(colours), _NUMBERS).view(np.uint64)
    odd = np.random.default_rng(0).integers(0, 2**63, words.shape[1], dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    with np.errstate(over="ignore"):
        summed: npt.NDArray[np.uint64] = (words * odd).sum(1, dtype=np.uint64)
    return summed
