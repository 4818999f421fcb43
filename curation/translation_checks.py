"""Is a translation one?  Each check names what is wrong, or nothing.

Translators fail in three ways that need no reference to see: they copy the source or answer in a third language, they
stop early or run on, and they fall into a loop.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import NamedTuple

from pairmill.languages import UNKNOWN, primary


class TranslationStatus(str, Enum):
    """What became of one text in one target language.  Every value but success means that there is no text."""

    SUCCESS = "success"
    UNSUPPORTED_LANGUAGE = "unsupported_language"  # the model does not translate from this language into the target
    ENGINE_ERROR = "engine_error"
    EMPTY = "empty"
    TRUNCATED = "truncated"  # still going on at translate.max_new_tokens
    WRONG_LANGUAGE = "wrong_language"
    BAD_LENGTH_RATIO = "bad_length_ratio"
    REPETITION = "repetition"


class LengthBounds(NamedTuple):
    """Characters of a translation for each of its source: between `least` and `most`, give or take `slack` of them."""

    least: float
    most: float
    slack: int


# From 1,949 English emoji labels and their Chinese ones (emojibase-data 17): 98 % of the labels of 10 to 60 characters
# lie within 0.06 and 0.6, with a median of 0.29.  The slack is what a one-word text may be off.
_INTO_CHARACTERS = LengthBounds(least=0.1, most=0.8, slack=4)
_FROM_CHARACTERS = LengthBounds(least=1.25, most=10.0, slack=12)
_SAME_KIND = LengthBounds(least=0.5, most=2.0, slack=12)

#: Written without spaces, one character a syllable or more.
_CHARACTER_LANGUAGES = frozenset({"zh", "ja"})

_LONGEST_LOOP = 8
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
    """How often in a row the most repeated phrase (of 1-8 words, or characters where there are no spaces) stands.

    >>> [longest_loop(t) for t in ("a dog", "a dog a dog a dog", "very very big", "哈哈哈哈", "")]
    [1, 3, 2, 4, 0]
    """
    units = _WORD.findall(text.lower())
    if any(not word.isascii() and len(word) > _LONGEST_LOOP for word in units) or len(units) <= 1:
        units = [character for character in text if character.isalnum()]
    longest = min(1, len(units))
    for size in range(1, min(_LONGEST_LOOP, len(units) // 2) + 1):
        same = 0  # how many units in a row equal the one `size` before
        for at in range(size, len(units)):
            same = same + 1 if units[at] == units[at - size] else 0
            longest = max(longest, same // size + 1)
    return longest


def is_wrong_language(detected: str, confidence: float, target: str, *, least_confidence: float) -> bool:
    """Whether a text is surely not in the target language.

    Texts without letters (`und`) pass, and so does what the detector is not sure of: of a word or two it seldom is.
    """
    return detected not in (primary(target), UNKNOWN) and confidence >= least_confidence
