"""A text as words, in scripts with spaces between them and in those without.

In the latter (Han, kana, Thai, Lao, Khmer, Burmese) a word is what a list of words knows, the longest that begins at a
character; any other character is a piece by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from pairmill.folding import fold

if TYPE_CHECKING:
    import regex

_DENSE = r"\p{Han}\p{Hiragana}\p{Katakana}ー\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_LETTER = rf"[[\p{{L}}\p{{M}}\p{{N}}]--[{_DENSE}]]"


class Piece(NamedTuple):
    """A word of a text, or a character that is in none: text[start:end]; `word` is its folded form."""

    start: int
    end: int
    word: str


@cache
def _runs() -> regex.Pattern[str]:
    """Runs of a script without spaces, which are group 1, and words of others: `o'clock` and `t-shirt` are one each."""
    import regex  # not needed to read a recipe, and slow to import

    return regex.compile(rf"([{_DENSE}]+)|{_LETTER}+(?:['’-]{_LETTER}+)*", regex.VERSION1)


def pieces(text: str, known: Set[str], longest: int) -> list[Piece]:
    """The pieces of a text, in order.

    known: folded words.  longest: characters of the longest of them.
    """
    found: list[Piece] = []
    for run in _runs().finditer(text):
        start, end = run.span()
        if run[1] is None:
            found.append(Piece(start, end, fold(run[0])))
            continue
        while start < end:
            stops = range(min(end, start + longest), start, -1)
            stop = next((at for at in stops if fold(text[start:at]) in known), start + 1)
            found.append(Piece(start, stop, fold(text[start:stop])))
            start = stop
    return found


def counted_words(text: str) -> Iterator[str]:
    """The folded words of a text, for counting: in scripts without spaces, each two characters side by side."""
    for run in _runs().finditer(text):
        word = fold(run[0])
        if run[1] is None or len(word) <= 2:
            yield word
        else:
            yield from (word[at : at + 2] for at in range(len(word) - 1))
