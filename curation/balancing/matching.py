"""Which entries of the metadata a caption names, by the rules of MetaCLIP's released code.

An entry is looked for as it is written, capitals too, with a space on both sides; in the caption, every one of
`, . ; : ? ! \\`` stands apart, and tabs and line ends are spaces.  As in MetaCLIP 2, an entry needs no space on a side
where it begins or ends with a letter of a script without spaces, or with punctuation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import regex

from pairmill.packages import needed

_APART = str.maketrans({mark: f" {mark} " for mark in ",.;:?!`"} | dict.fromkeys("\t\n\r", " "))

#: A letter that needs no space beside it, or punctuation.
_NO_SPACE = regex.compile(r"[\p{Han}\p{Thai}\p{Lao}\p{Myanmar}\p{Khmer}\p{Tibetan}\p{Hiragana}\p{Katakana}\p{P}\p{S}]")


class Matches(NamedTuple):
    """entries: int32, those of all texts, each entry of a text once, ascending.  text: int32, of which text each is."""

    entries: npt.NDArray[np.int32]
    text: npt.NDArray[np.int32]


class Matcher:
    """All entries of one language, looked for in one pass over a caption (Aho and Corasick 1975)."""

    def __init__(self, entries: Sequence[str]) -> None:
        """entries: not empty texts, each once."""
        with needed("ahocorasick_rs"):
            from ahocorasick_rs import AhoCorasick

        self._search = AhoCorasick([_spaced_entry(one) for one in entries], store_patterns=False)

    def __call__(self, texts: Sequence[str]) -> Matches:
        """The entries that each text names."""
        found: list[int] = []
        of: list[int] = []
        for at, text in enumerate(texts):
            places = self._search.find_matches_as_indexes(_spaced(text), overlapping=True)
            entries = sorted({entry for entry, _, _ in places})
            found += entries
            of += [at] * len(entries)
        return Matches(np.array(found, np.int32), np.array(of, np.int32))


def never_named(entries: Iterable[str]) -> int:
    """How many entries no caption can name, as `St. Louis`: in a caption the full stop stands apart."""
    return sum(_spaced_entry(entry) not in _spaced(entry) for entry in entries)


def _spaced(text: str) -> str:
    return f" {text} ".translate(_APART)


def _spaced_entry(entry: str) -> str:
    before = "" if _NO_SPACE.match(entry[0]) else " "
    return f"{before}{entry}{'' if _NO_SPACE.match(entry[-1]) else ' '}"
