"""Counts of bounded size: histograms with fixed bins, and counters of words from outside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

Word = TypeVar("Word", bound=Hashable)


class Histogram:
    """Counts in the bins between `edges`, and in one more below and above them.

    counts[i] values v have edges[i - 1] <= v < edges[i].  Missing values (NaN) are left out.
    """

    def __init__(self, edges: ArrayLike) -> None:
        self.edges: NDArray[np.float64] = np.asarray(edges, np.float64)
        self.counts = np.zeros(len(self.edges) + 1, np.int64)
        self.sum = 0.0
        self.max = 0.0

    def add(self, values: ArrayLike) -> None:
        """Count some values."""
        found = np.asarray(values, np.float64)
        found = found[np.isfinite(found)]
        if not len(found):
            return
        self.counts += np.bincount(np.searchsorted(self.edges, found, "right"), minlength=len(self.counts))
        self.sum += float(found.sum())
        self.max = max(self.max, float(found.max()))

    def __len__(self) -> int:
        return int(self.counts.sum())

    def quantile(self, share: float) -> float | None:
        """The value below which this share of all values is, estimated from the bins; None without values."""
        if not len(self):
            return None
        below = np.cumsum(self.counts)
        target = share * below[-1]
        at = int(np.searchsorted(below, target))
        before = below[at - 1] if at else 0
        low = self.edges[at - 1] if at else 0.0
        high = self.edges[at] if at < len(self.edges) else self.max
        value = low + (high - low) * (target - before) / self.counts[at]
        return float(min(value, self.max))

    def summary(self) -> dict[str, float | None]:
        """Mean, largest value and percentiles."""
        mean = self.sum / len(self) if len(self) else None
        quantiles = {f"p{round(100 * share)}": self.quantile(share) for share in (0.1, 0.5, 0.9, 0.95, 0.99)}
        rounded = {name: None if value is None else round(value, 4) for name, value in quantiles.items()}
        return {
            "mean": None if mean is None else round(mean, 4),
            **rounded,
            "max": round(self.max, 4) if len(self) else None,
        }

    def coarse(self, edges: Sequence[float]) -> list[int]:
        """The counts in wider bins, one more than there are `edges`.  Raises ValueError for edges that are not ours."""
        at = np.searchsorted(self.edges, edges)
        if not np.allclose(self.edges[at], edges):
            raise ValueError("coarse edges must be edges of the histogram")
        below = np.concatenate([[0], np.cumsum(self.counts)[at], [self.counts.sum()]])
        return [int(n) for n in np.diff(below)]


class Frequent(Generic[Word]):
    """A counter of at most twice `cap` words.

    Beyond that the rarest are forgotten, so a count may lack what was forgotten of its word before.
    """

    def __init__(self, cap: int = 4096) -> None:
        self.counts: Counter[Word] = Counter()
        self._cap = cap

    def add(self, words: Mapping[Word, int]) -> None:
        """Count some words."""
        self.counts.update(words)
        if len(self.counts) > 2 * self._cap:
            self.counts = Counter(dict(self.counts.most_common(self._cap)))

    def most_common(self, n: int | None = None) -> dict[Word, int]:
        """The commonest words with their counts; equally common ones in the words' own order."""
        ordered = sorted(self.counts.items(), key=lambda item: (-item[1], str(item[0])))
        return dict(ordered[:n])
