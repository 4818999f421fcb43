"""How much of a caption a picture shows as text, and how much of that text the caption has."""

from __future__ import annotations

from curation.filters.scripts import UNSPACED
from curation.filters.words import words_of
from pairmill.regex import compile_later

#: Characters from which on a word also counts where it stands within others: readers drop spaces.
_LONG = 4

_UNSPACED = compile_later(f"[{UNSPACED}]")


def overlap(caption: str, shown: str) -> tuple[float | None, float | None]:
    """The share of the caption's words that `shown` has, and the share of the words of `shown` that the caption has.

    Case and width do not count, a word counts once, and one of four characters or more is found within others too.  In
    scripts without spaces, neighbouring characters count, two by two.  None where there is no word at all.
    """
    mine, theirs = words_of(caption), words_of(shown)
    return _share(mine, theirs), _share(theirs, mine)


def _share(of: list[str], within: list[str]) -> float | None:
    units = _units(of)
    if not units:
        return None
    there, joined = _units(within), "".join(within)
    return sum(one in there or (len(one) >= _LONG and one in joined) for one in units) / len(units)


def _units(words: list[str]) -> set[str]:
    """Words; of those that follow each other in a script without spaces, each two, and one that is alone."""
    found, run = set(), ""
    for word in [*words, ""]:
        if _UNSPACED.fullmatch(word):
            run += word
            continue
        if run:
            found |= {run[at : at + 2] for at in range(max(1, len(run) - 1))}
            run = ""
        if word:
            found.add(word)
    return found
