"""Checks of translations that need no reference.

Translators fail in three visible ways: they copy the source or answer in a third language, they stop early or do not
stop, and they fall into a loop.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import NamedTuple

from pairmill.languages import UNKNOWN, primary


class TranslationStatus(str, Enum):
    """What became of one text in one target language.  Every value but success means that there is no text.

    Where a text is translated by sentences, it is the status of the first one that is refused.
    """

    SUCCESS = "success"
    UNSUPPORTED_LANGUAGE = "unsupported_language"  # the model does not translate from this language into the target
    ENGINE_ERROR = "engine_error"
    EMPTY = "empty"
    TRUNCATED = "truncated"  # not ended at translate.max_new_tokens
    WRONG_LANGUAGE = "wrong_language"
    BAD_LENGTH_RATIO = "bad_length_ratio"
    REPETITION = "repetition"
    LOST_SENTENCES = "lost_sentences"  # fewer and much shorter than the source
    NUMBERS_DIFFER = "numbers_differ"  # a number lost or made up
    LOST_TERM = "lost_term"  # of the glossary
    BACK_TRANSLATION = "back_translation"  # too unlike the source when translated back, or not translated back


class LengthBounds(NamedTuple):
    """Characters of a translation per character of its source: from `least` to `most`, with `slack` characters."""

    least: float
    most: float
    slack: int


# From 1,949 English emoji labels and their Chinese ones (emojibase-data 17): 98 % of the labels of 10 to 60 characters
# are within 0.06 and 0.6, with a median of 0.29.  The slack is for one-word texts.
_INTO_CHARACTERS = LengthBounds(least=0.1, most=0.8, slack=4)
_FROM_CHARACTERS = LengthBounds(least=1.25, most=10.0, slack=12)
_SAME_KIND = LengthBounds(least=0.5, most=2.0, slack=12)

#: Written without spaces, one or more syllables per character.
_CHARACTER_LANGUAGES = frozenset({"zh", "ja"})

#: Units of a phrase that `longest_loop` counts, and words of one that `Loops.repeats_phrase` finds.
_LONGEST_LOOP, _LONGEST_PHRASE = 8, 60
_WORD = re.compile(r"\w+")


def length_bounds(source: str, target: str) -> LengthBounds:
    """The usual bounds between two languages."""
    dense = [primary(code) in _CHARACTER_LANGUAGES for code in (source, target)]
    if dense[0] == dense[1]:
        return _SAME_KIND
    return _INTO_CHARACTERS if dense[1] else _FROM_CHARACTERS


def has_bad_length(source_text: str, text: str, bounds: LengthBounds) -> bool:
    """Whether `text` is too short or too long for a translation of `source_text`."""
    given, made = len(source_text), len(text)
    return made + bounds.slack < bounds.least * given or made > bounds.most * given + bounds.slack


def longest_loop(text: str) -> int:
    """How often the most repeated phrase (of 1-8 words, or characters in scripts without spaces) occurs in a row.

    >>> [longest_loop(t) for t in ("a dog", "a dog a dog a dog", "very very big", "哈哈哈哈", "")]
    [1, 3, 2, 4, 0]
    """
    loops = Loops()
    loops.add(text)
    return loops.longest


class Loops:
    """The repeats in a text that grows by whole words; the work is proportional to its length."""

    def __init__(self) -> None:
        self._words = _Runs(_LONGEST_PHRASE)
        self._characters = _Runs(_LONGEST_LOOP)
        self._spaceless = False

    def add(self, text: str) -> None:
        """Add `text` behind a space."""
        words = _WORD.findall(text.lower())
        self._spaceless = self._spaceless or any(not w.isascii() and len(w) > _LONGEST_LOOP for w in words)
        self._words.extend(words)
        self._characters.extend([character for character in text if character.isalnum()])

    @property
    def longest(self) -> int:
        """What `longest_loop` says of the text so far."""
        units = self._characters if self._spaceless or len(self._words) <= 1 else self._words
        return min(len(units), max(most // size + 1 for size, most in enumerate(units.most[:_LONGEST_LOOP], start=1)))

    def repeats_phrase(self, least: int, times: int) -> bool:
        """Whether a phrase of `least` to 60 words comes `times` in a row."""
        long = enumerate(self._words.most[least - 1 :], start=least)
        return any(most >= size * (times - 1) for size, most in long)


class _Runs:
    """most: for each distance from 1, the most units in a row that equal the one so far before."""

    def __init__(self, furthest: int) -> None:
        self.most = [0] * furthest
        self._now = [0] * furthest
        self._units: list[str] = []

    def __len__(self) -> int:
        return len(self._units)

    def extend(self, more: list[str]) -> None:
        """Add these units."""
        first = len(self._units)
        self._units += more
        for distance, now in enumerate(self._now, start=1):
            before = self._units[max(0, first - distance) : max(0, len(self._units) - distance)]
            behind = self._units[max(first, distance) :]
            most = self.most[distance - 1]
            for one, other in zip(before, behind, strict=True):
                now = now + 1 if one == other else 0
                most = now if now > most else most
            self._now[distance - 1], self.most[distance - 1] = now, most


def is_wrong_language(detected: str, confidence: float, target: str, *, least_confidence: float) -> bool:
    """Whether a text is surely not in the target language.

    Texts without letters (`und`) pass, and so do texts of which the detector is unsure, as it mostly is of one or two
    words.
    """
    return detected not in (primary(target), UNKNOWN) and confidence >= least_confidence
