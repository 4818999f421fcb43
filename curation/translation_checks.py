"""Checks of translations that need no reference.

Translators fail in three visible ways: they copy the source or answer in a third language, they stop early or do not
stop, and they fall into a loop.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import NamedTuple

from curation.whole_sentences import sentences
from pairmill.languages import UNKNOWN, primary


class TranslationStatus(str, Enum):
    """What became of one text in one target language.  Every value but success means that there is no text."""

    SUCCESS = "success"
    UNSUPPORTED_LANGUAGE = "unsupported_language"  # the model does not translate from this language into the target
    ENGINE_ERROR = "engine_error"
    EMPTY = "empty"
    TRUNCATED = "truncated"  # not ended at translate.max_new_tokens
    WRONG_LANGUAGE = "wrong_language"
    BAD_LENGTH_RATIO = "bad_length_ratio"
    REPETITION = "repetition"
    LOST_SENTENCES = "lost_sentences"  # fewer and much shorter than the source


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


# The usual length of a translation, in characters per character of the source: the median of the labels above, its
# inverse, and an assumed 1 between languages of one kind, which was not measured.
_USUAL_INTO_CHARACTERS, _USUAL_FROM_CHARACTERS, _USUAL_SAME_KIND = 0.29, 3.4, 1.0
#: Below this share of the usual length, fewer sentences are lost ones and not joined ones.  Chosen by hand between
#: whole and shortened translations of a few sentences; one lost sentence of five or more may go unseen.
_LOST_BELOW = 0.65
#: The same where two sentences or more, and two in five, are missing between languages whose texts are about as long.
_MANY_LOST_BELOW, _MANY_LOST, _MANY_LOST_SHARE = 0.75, 2, 0.4
_ALIKE = frozenset({"en", "de", "fr", "es", "it", "pt", "nl"})


def has_lost_sentences(source_text: str, text: str, source: str, target: str) -> bool:
    """Whether a translation of several sentences has fewer, and is much shorter than translations usually are.

    A translator may join sentences, or may be terse; it is the two together that show a loss.
    """
    given, made = _parts(source_text), _parts(text)
    if given < 2 or made >= given:
        return False
    dense = [primary(code) in _CHARACTER_LANGUAGES for code in (source, target)]
    usual = _USUAL_SAME_KIND
    if dense[0] != dense[1]:
        usual = _USUAL_INTO_CHARACTERS if dense[1] else _USUAL_FROM_CHARACTERS
    many = given - made >= max(_MANY_LOST, _MANY_LOST_SHARE * given) and {primary(source), primary(target)} <= _ALIKE
    return len(text) < (_MANY_LOST_BELOW if many else _LOST_BELOW) * usual * len(source_text)


def _parts(text: str) -> int:
    whole, rest = sentences(text)
    return len(whole) + bool(rest)


def longest_loop(text: str) -> int:
    """How often the most repeated phrase (of 1-8 words, or characters in scripts without spaces) occurs in a row.

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

    Texts without letters (`und`) pass, and so do texts of which the detector is unsure, as it mostly is of one or two
    words.
    """
    return detected not in (primary(target), UNKNOWN) and confidence >= least_confidence
