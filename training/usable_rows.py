"""Whether a run has rows to learn from: steps without one have a loss of 0, and would end as a run that went well."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from training.errors import FinalError

#: Steps in a row without a usable row after which a run ends.
EMPTY_STEPS = 20

_FIXES: Mapping[str, str] = {
    "no_text": "check data.texts (kind and language) against the texts of the rows, and that a tar holds the files of "
    "a sample one after the other",
    "empty_text": "check the column or key of the texts (data.text_column)",
    "missing_image": "check the column of the images (data.image_column)",
    "corrupt_image": "check the column of the images (data.image_column), which must hold encoded pictures",
    "bad_row": "correct the rows that RUN/bad_rows-0.jsonl names",
}


class UsableRows:
    """Counts steps without a usable row, on any worker: all count alike."""

    def __init__(self) -> None:
        self._empty = 0
        self._skipped: Counter[str] = Counter()
        self._learnt = False

    def learnt(self) -> bool:
        """Whether there was a usable row since the last call: without one, there is nothing to save."""
        learnt, self._learnt = self._learnt, False
        return learnt

    def seen(self, step: int, rows: int, skipped: Mapping[str, int], *, last: bool) -> None:
        """After each step: its number from 1, usable rows of all workers, and this worker's others by reason.

        Raises FinalError after EMPTY_STEPS steps without a usable row, and at the last step if there never was one.
        """
        if rows:
            self._empty, self._skipped, self._learnt = 0, Counter(), True
            return
        self._empty += 1
        self._skipped.update(skipped)
        if self._empty < EMPTY_STEPS and not (last and self._empty == step):
            return
        counts = self._skipped.most_common()
        raise FinalError(
            "data must have rows that can be trained on: a picture that can be read, with a text that data.texts asks "
            "for",
            f"none in {self._empty} steps up to step {step} ({', '.join(f'{why}: {n:,}' for why, n in counts)})",
            _FIXES.get(counts[0][0] if counts else "", "check data.path and data.texts"),
        )
