"""How often each word is in the texts of a dataset, by language, in bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from pairmill.languages import canonical
from pairmill.layout import OTHER_KINDS
from training.data.sample import Source
from training.data.text_transforms import Text
from training.data.texts import row_texts
from training.data.word_pieces import counted_words

#: Rows that are read at once.
_AT_ONCE = 1024

#: Different words of a language that are counted at once: about 200 MB.
_MOST_WORDS = 1_000_000


class WordCount(NamedTuple):
    """A word of a dataset, folded.  times: how often it occurs.  texts: in how many texts."""

    word: str
    language: str
    times: int
    texts: int


class WordCounter:
    """Counts the words of texts, by language, in bounded memory.

    When a language has twice `most` different words, all but the `most` frequent are forgotten.  A word that is among
    the first thousands is never among those: counts of words near the limit are too low.
    """

    def __init__(self, most: int = _MOST_WORDS) -> None:
        self._most = most
        self._counts: dict[str, Counter[str]] = {}
        self._texts: dict[str, Counter[str]] = {}
        self._of_language: Counter[str] = Counter()

    def add(self, texts: Iterable[Text]) -> None:
        """Count these."""
        for text in texts:
            language = canonical(text.language)
            self._of_language[language] += 1
            counts = self._counts.setdefault(language, Counter())
            words = list(counted_words(text.text))
            counts.update(words)
            self._texts.setdefault(language, Counter()).update(set(words))
            if len(counts) > 2 * self._most:
                self._forget(language)

    def _forget(self, language: str) -> None:
        kept = sorted(self._counts[language].items(), key=lambda item: (-item[1], item[0]))[: self._most]
        self._counts[language] = Counter(dict(kept))
        self._texts[language] = Counter({word: self._texts[language][word] for word, _ in kept})

    def texts(self, language: str) -> int:
        """Texts of a language that were counted."""
        return self._of_language[language]

    def significant(self, *, top: int, common: float) -> list[WordCount]:
        """Of each language, its `top` most frequent words that are in at most the share `common` of its texts.

        What is in more texts is taken for a function word (of, the, with).
        """
        found: list[WordCount] = []
        for language, counts in sorted(self._counts.items()):
            texts, limit = self._texts[language], common * self._of_language[language]
            ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
            kept = [WordCount(word, language, count, texts[word]) for word, count in ranked if texts[word] <= limit]
            found += kept[:top]
        return found


def count_words(sources: Sequence[Source], *, rows: int, seed: int, counter: WordCounter) -> int:
    """Count the texts of about so many rows of some datasets, and return how many rows those were.

    Each dataset gives its share of rows, from pieces in a seeded order; all rows, where there are no more.  Texts that
    are no descriptions (`negative`, `tags`, `question`) do not count.
    """
    everything, done = sum(int(source.rows.sum()) for source in sources), 0
    for number, source in enumerate(sources):
        left = -(-int(source.rows.sum()) * min(rows, everything) // everything)
        for piece in np.random.default_rng([seed, number]).permutation(source.pieces).tolist():
            size = int(min(left, source.rows[piece]))
            for start in range(0, size, _AT_ONCE):
                table = source.read(piece, start, min(size, start + _AT_ONCE))
                found = [text for texts in table["texts"].to_pylist() for text in row_texts(texts)]
                counter.add(text for text in found if text.kind not in OTHER_KINDS)
            left, done = left - size, done + size
            if not left:
                break
    return done
