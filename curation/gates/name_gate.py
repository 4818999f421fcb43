"""Names that a model wrote and nothing else knows of: people, places and brands that no picture shows."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic import Field

from curation.filters.words import words_of
from curation.gates.gate import ACCEPTED, REFUSED, GateKeys, Verdict, Written, WrittenKind
from curation.gates.supported import ReaderGate
from curation.whole_sentences import sentences
from pairmill.languages import primary

#: Languages that write every noun with a capital, so that capitals say nothing.
_CAPITAL_NOUNS = frozenset({"de", "lb", "gsw"})
_WORD = re.compile(r"[^\W\d_]+(?:['’.-][^\W\d_]+)*")
_JOINING_WORDS = "of the de del della di da do dos du la le van von der den y e al bin"
_FIRST_WORDS = """
a an the this that these those in on at by with for from of to and or but as it its he she they there here his her their
our my your two three four five six several some many most each both one no when while where what who how after before
under over behind beside near inside outside against between around above below through
"""
#: Words within a name; first words of a sentence that have their capital from there.
_JOINING, _BEGINNINGS = frozenset(_JOINING_WORDS.split()), frozenset(_FIRST_WORDS.split())
#: Share of a text's words behind the first, from which on capitals say nothing: Title Case, headlines; and from which
#: on a first word is not taken for a part of a name (`Man Riding a Horse`).
_TITLE_CASE, _LIKE_TITLES = 0.75, 0.5
#: Letters that two words must share from the beginning to be one name in two forms (`Bavaria`, `Bavarian`).
_STEM = 4


class NameKeys(GateKeys):
    """Which texts are looked at, and what is compared."""

    kinds: tuple[WrittenKind, ...] | None = Field(
        ("short", "long", "rewritten"),
        min_length=1,
        description="kinds of text that it looks at; a translation spells names in another way; null: all",
    )
    ocr: str | None = Field(
        None,
        description="entry of `score` with the head ocr, whose text counts as evidence too; null: the alt text alone",
    )


class NameGate(ReaderGate):
    """Refuse a text with a name of several words of which the alt text, and what the picture shows as text, have none.

    A name is two or more words with capitals that follow each other, in a script with capitals, and not in German,
    where nouns have them too.  A text whose words mostly have them says nothing.  A captioner may know a landmark that
    the alt text does not name: that text is refused too.
    """

    Config = NameKeys

    def verdict(self, text: Written) -> Verdict:
        """The verdict on one text."""
        if primary(text.language) in _CAPITAL_NOUNS or not (found := names(text.text)):
            return ACCEPTED
        known = words_of(f"{text.row['caption'] or ''}\n{self.shown(text) or ''}")
        unknown = any(not any(_is_known(word, known) for word in words_of(name)) for name in found)
        return REFUSED if unknown else ACCEPTED


def _is_known(word: str, known: Sequence[str]) -> bool:
    return any(word == other or (len(word) >= _STEM and other[:_STEM] == word[:_STEM]) for other in known)


def names(text: str) -> list[str]:
    """The names of several words in a text.

    >>> names("A statue of Queen Victoria in front of the Palace of Justice. The Dog runs.")
    ['Queen Victoria', 'Palace of Justice']
    """
    words = _WORD.findall(text)[1:]
    share = sum(word[0].isupper() for word in words) / max(1, len(words))
    if share > _TITLE_CASE:
        return []
    whole, rest = sentences(text)
    found = []
    for sentence in (*whole, rest):
        runs = _runs(sentence, with_first=share <= _LIKE_TITLES)
        found += [" ".join(run) for run in runs if sum(word[0].isupper() for word in run) > 1]
    return found


def _runs(sentence: str, *, with_first: bool) -> list[list[str]]:
    """Words with capitals that follow each other, with what may join them.

    with_first: whether the first word of the sentence may be of a name.
    """
    runs: list[list[str]] = [[]]
    end = 0
    for at, word in enumerate(_WORD.finditer(sentence)):
        apart = sentence[end : word.start()].strip(" ")
        end = word.end()
        is_first = at == 0 and (not with_first or word[0].lower() in _BEGINNINGS)
        raised = word[0][0].isupper() and not is_first
        if apart:
            runs.append([])
        if raised or (runs[-1] and word[0].lower() in _JOINING):
            runs[-1].append(word[0])
        elif runs[-1]:
            runs.append([])
    return [_without_tail(run) for run in runs if run]


def _without_tail(run: list[str]) -> list[str]:
    while run and not run[-1][0].isupper():
        run = run[:-1]
    return run
