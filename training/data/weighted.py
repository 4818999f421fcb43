"""Rows of a selection drawn by their weights: a row of twice the weight is read twice as often.

An epoch has as many draws as the selection has rows.  Each piece has its share of them, fixed, so that the cursor
(`training.data.cursor`) counts draws as it counts rows.  Which rows they are is drawn anew in every epoch, by
systematic sampling: the weights of the piece laid end to end, and draws at equal distances from a random start.  So of
n draws a row of the share w is drawn n w times on average, and in each epoch that many, rounded down or up.  Nothing
is kept between epochs: a draw follows from seed, dataset, epoch and piece.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pairmill.config import digest
from pairmill.errors import IntegrityError, RecipeError
from training.data.curated import SelectionSource


class WeightedSource:
    """A selection whose rows are drawn by a column of it; a piece is the draws of a shard."""

    labelled = False
    left_out: Mapping[str, int] = {}

    def __init__(self, source: SelectionSource, column: str) -> None:
        """Raises RecipeError if the selection has no such column, or no row of a weight above 0."""
        self.name, self._source, self._column = source.name, source, column
        sums = source.weights(column)
        draws = shares(sums, int(source.rows.sum()))
        self._pieces = np.flatnonzero(draws)
        self.rows: NDArray[np.int64] = draws[self._pieces]
        self.pieces = len(self._pieces)
        if not self.pieces:
            raise RecipeError(
                "data.weight must be above 0 for some row", value=f"{column} of {source.name}", fix="set null"
            )
        self.fingerprint = digest([source.fingerprint, "weight", column])

    def read(self, piece: int, start: int = 0, stop: int | None = None) -> pa.Table:
        """Draws [start, stop) of a piece in an epoch of its own, as SAMPLE columns."""
        return self.drawn(piece, start, stop, words=None)

    def drawn(self, piece: int, start: int, stop: int | None, *, words: tuple[int, ...] | None) -> pa.Table:
        """Draws [start, stop) of a piece, as SAMPLE columns.

        words: seed, dataset and epoch; None: rows stay in order.
        Raises IntegrityError if the piece has no weight, although it was counted.
        """
        shard = int(self._pieces[piece])
        weights = self._source.row_weights(shard, self._column)
        total = int(self.rows[piece])
        if not weights.sum() > 0:
            raise IntegrityError(f"{self.name} must have the weights that were counted: a shard has none above 0")
        rng = None if words is None else np.random.Generator(np.random.Philox(np.random.SeedSequence([*words, shard])))
        chosen = draw(weights, total, rng)[start:stop]
        first, last = (int(chosen.min()), int(chosen.max()) + 1) if len(chosen) else (0, 0)
        return self._source.read(shard, first, last).take(pa.array(chosen - first))


def shares(sums: NDArray[np.float64], draws: int) -> NDArray[np.int64]:
    """How many of so many draws each piece has, by the sums of its weights: within 1 of its share, and exact in all."""
    whole = float(sums.sum())
    if not whole > 0:
        return np.zeros(len(sums), np.int64)
    ends = np.floor(np.cumsum(sums) / whole * draws + 0.5).astype(np.int64)
    ends[-1] = draws
    found: NDArray[np.int64] = np.diff(np.concatenate([[0], ends]))
    # Rounding must not give draws to a piece without weight, which the last one may be.
    spare = int(found[sums <= 0].sum())
    found[sums <= 0] = 0
    found[int(np.argmax(sums))] += spare
    return found


def draw(weights: NDArray[np.float64], draws: int, rng: np.random.Generator | None) -> NDArray[np.int64]:
    """int64 [draws]: rows, each about draws * weight / sum times, in random order.  rng: None: evenly, in order."""
    ends = np.cumsum(weights)
    at = (np.arange(draws) + (0.5 if rng is None else rng.random())) / draws * ends[-1]
    # The first row whose weight ends behind the place; rounding must not lead past the last row that has any.
    found = np.minimum(np.searchsorted(ends, at, "right"), np.flatnonzero(weights > 0)[-1]).astype(np.int64)
    return found if rng is None else rng.permutation(found)
