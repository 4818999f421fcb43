"""What a step has of its rows' texts: some of the slots, and so many tokens of each.  Functions of seed and step.

K text slots, of N that a bundle has (with those of views and negatives, which come after the K).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class Shorten(NamedTuple):
    """How texts are cut, as their tokenizer would cut them at a shorter context length."""

    limit: Callable[[int], int | None]  #: step -> most tokens of a text; None: as many as there are
    end: bool  #: whether the last token of each text marks its end, and is kept


class SlotDraw(NamedTuple):
    """Which slots a step has, the same on all workers: `number` of K, in their order (1-to-K, Nie et al. 2024)."""

    slots: int  #: K
    number: int
    seed: int

    def at(self, step: int) -> Ints:
        """int64 [number]."""
        # A spawn key keeps these numbers apart from all that the cursor draws with the same seed.
        words = np.random.SeedSequence((self.seed, step), spawn_key=(self.slots,))
        return np.sort(np.random.Generator(np.random.Philox(words)).permutation(self.slots)[: self.number])


class Kept(NamedTuple):
    """What a step has of its texts.  limit: most tokens; None: all.  end: as for `Shorten`."""

    slots: Ints  #: of N
    drawn: Ints | None  #: those of them that are of the K; None: all
    limit: int | None
    end: bool

    def shortened(self, lengths: Ints) -> Ints:
        """Tokens of texts of these lengths, after cutting."""
        return lengths if self.limit is None else np.minimum(lengths, self.limit)

    def tokens(self, lengths: Ints) -> NDArray[np.bool_]:
        """Which tokens are kept of all texts of some rows, laid end to end.  lengths: [rows, N]."""
        there = np.zeros(lengths.shape, np.bool_)
        there[:, self.slots] = True
        each = lengths.reshape(-1)
        kept: NDArray[np.bool_] = np.repeat(there.reshape(-1), each)
        if self.limit is not None:
            place = np.arange(len(kept)) - np.repeat(np.cumsum(each) - each, each)
            last = np.repeat(each, each) - 1
            kept &= (place < self.limit - 1) | (place == last) if self.end else place < self.limit
        return kept


class StepTexts(NamedTuple):
    """shorten: None: no text is cut.  draw: None: a step has all slots."""

    shorten: Shorten | None = None
    draw: SlotDraw | None = None

    def at(self, step: int, slots: int) -> Kept:
        """slots: N."""
        limit, end = (None, False) if self.shorten is None else (self.shorten.limit(step), self.shorten.end)
        if self.draw is None:
            return Kept(np.arange(slots), None, limit, end)
        drawn = self.draw.at(step)
        return Kept(np.concatenate([drawn, np.arange(self.draw.slots, slots)]), drawn, limit, end)


#: All of them, whole.
ALL_TEXTS = StepTexts()
