"""A histogram of numbers whose range nobody knows beforehand, in one pass and in bounded memory; any two can be added.

The bits of a float64 in the order of the numbers (`curation.selections.ranking.rising`) are cut after the first so
many: numbers with equal beginnings share a bin, and 12 bits of the mantissa make a bin as wide as 1/4096 of its number.
Where there would be more than `MOST_BINS` bins, all lose another bit, as often as it takes.  How many bits are left
depends on the numbers alone, neither on their order nor on how they are divided.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curation.selections.ranking import rising, value_of
from pairmill.axes import round_step

#: Bins of a sketch at most: 1 MB.
MOST_BINS = 1 << 16

#: Bits that are cut off at first: 1 of sign, 11 of exponent and 12 of mantissa stay.
_CUT = np.uint64(40)

#: Columns of a chart, about so many.
_COLUMNS = 48

#: Numbers that are drawn at most: twice so many are still finite.
_LARGEST = 8e307

#: What lies beyond these shares of the numbers is counted in the first and in the last column of a chart.
_ENDS = (0.005, 0.995)


class Sketch:
    """How often numbers occur, nearly as they are."""

    def __init__(self) -> None:
        self._cut = _CUT
        self._bins: npt.NDArray[np.uint64] = np.empty(0, np.uint64)
        self._counts: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self.least, self.largest = math.inf, -math.inf

    def add(self, values: npt.ArrayLike) -> None:
        """Count some numbers; those that are not finite are left out."""
        found = np.asarray(values, np.float64)
        found = found[np.isfinite(found)]
        if not len(found):
            return
        self.least, self.largest = min(self.least, float(found.min())), max(self.largest, float(found.max()))
        words = rising(pa.chunked_array([pa.array(found)]))
        self._take(words >> self._cut, np.ones(len(found), np.int64))

    def merge(self, other: Sketch) -> None:
        """Count what another sketch has counted."""
        self._shorten(other._cut)
        self._take(other._bins >> (self._cut - other._cut), other._counts)
        self.least, self.largest = min(self.least, other.least), max(self.largest, other.largest)

    def _take(self, bins: npt.NDArray[np.uint64], counts: npt.NDArray[np.int64]) -> None:
        every, place = np.unique(np.concatenate([self._bins, bins]), return_inverse=True)
        summed = np.zeros(len(every), np.int64)
        np.add.at(summed, place, np.concatenate([self._counts, counts]))
        self._bins, self._counts = every, summed
        if len(every) > MOST_BINS:
            self._shorten(self._cut + np.uint64(1))

    def _shorten(self, cut: np.uint64) -> None:
        """Cut so many bits off, if not more are cut off already."""
        if cut > self._cut:
            bins, counts = self._bins >> (cut - self._cut), self._counts
            self._cut, self._bins, self._counts = cut, np.empty(0, np.uint64), np.empty(0, np.int64)
            self._take(bins, counts)

    def __len__(self) -> int:
        return int(self._counts.sum())

    @property
    def error(self) -> float:
        """By how much a quantile may differ from the true one, as a share of it; below 2^-1022, as a share of that."""
        return float(2.0 ** (float(self._cut) - 52))

    @property
    def _values(self) -> npt.NDArray[np.float64]:
        """The number of each bin that is nearest to zero; short ones, such as 0.5 and 3, are exact."""
        low = self._bins << self._cut
        high = low | ((np.uint64(1) << self._cut) - np.uint64(1))
        found: npt.NDArray[np.float64] = np.where(low >> np.uint64(63), value_of(low), value_of(high))
        return found

    def quantile(self, share: float) -> float | None:
        """The least number that at least this share of all numbers do not exceed, see `error`; None without numbers."""
        if not len(self):
            return None
        at = int(np.searchsorted(np.cumsum(self._counts), max(1, math.ceil(share * len(self)))))
        return float(np.clip(self._values[at], self.least, self.largest))

    def edges(self, marks: Iterable[float] = ()) -> list[float]:
        """Round numbers that divide the range into columns of a chart; [] without numbers.

        What few numbers lie far outside is beyond the first and the last.  marks: numbers to be within, if not too far.
        """
        ends = [self.quantile(share) for share in _ENDS]
        if ends[0] is None or ends[1] is None:
            return []
        low, high = ends[0], ends[1]
        if self.largest - self.least <= 1.5 * (high - low):
            low, high = self.least, self.largest
        span = high - low
        near = [mark for mark in marks if low - span <= mark <= high + span]
        low, high = np.clip([min([low, *near]), max([high, *near])], -_LARGEST, _LARGEST).tolist()
        step = round_step(max(high - low, abs(low) * 1e-6, 1e-12) / _COLUMNS)
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        return [float(f"{step * number:.10g}") for number in range(first, max(last, first + 1) + 1)]

    def counts(self, edges: Sequence[float]) -> list[int]:
        """The numbers below the first edge, between each two, and from the last on: one more than there are edges.

        All numbers of the bin that an edge is in count as the edge does, so none equal to it is on the wrong side.
        """
        words = rising(pa.chunked_array([pa.array(edges, pa.float64())]))
        at = np.searchsorted(words >> self._cut, self._bins, "right")
        found = np.zeros(len(edges) + 1, np.int64)
        np.add.at(found, at, self._counts)
        return [int(n) for n in found]
