"""Text that a caption says is to be read in the picture, and that the reader did not read: a sign that says "STOP"."""

from __future__ import annotations

import re

from pydantic import Field

from curation.gates.gate import ACCEPTED, GateKeys, Verdict, Written
from curation.gates.supported import ReaderGate
from pairmill.folding import fold

_QUOTED = re.compile(
    r"\"([^\"]{1,200})\"|[“”„]([^“”„]{1,200})[”“]|「([^」]{1,200})」|『([^』]{1,200})』|«([^»]{1,200})»|(?<!\w)['‘]([^'’‘]{1,200})['’](?!\w)"
)
#: What says, shortly before a quotation, that it is written there and not a title or a name.
_WRITTEN = re.compile(
    r"\b(?:say(?:s|ing)|reads?|reading|words?|wording|text|texts|letters?|lettering|written|writing|label(?:l?ed|s)?|sign|signs"
    r"|inscription|inscribed|titled?|printed|print(?:s|ing)|spell(?:s|ing|ed)?|caption(?:ed)?|logo|banner|slogan|poster"
    r"|steht|Aufschrift|Wort|Text|Schild|mot|mots|texte|inscription|écrit|panneau|palabras?|texto|letrero|dice|scritta|testo"
    r"|parola|cartello|надпис\w+|слов\w+|текст\w*)\b|写着|写有|写着|字样|文字|标志|标牌|書かれ|文字|と書|라고|글자|문구",
    re.IGNORECASE,
)
_LISTED = re.compile(r"\W*(?:and|or|und|et|y|e|i|и|和|及|と)?\W*")
#: Characters before and behind a quotation in which that is said.
_BEFORE, _BEHIND = 40, 12
_LETTERS = re.compile(r"[\W_]+")
#: Letters of a picture's text that are compared: the work grows with them.
_MOST_READ = 5000


class QuotationKeys(GateKeys):
    """By which reader, and how alike the texts must be."""

    ocr: str = Field(description="entry of `score` with the head ocr, which read the pictures")
    max_distance: float = Field(
        0.4,
        ge=0,
        le=1,
        description="most edits (a character replaced, left out or added) that turn the quotation into a part of what "
        "was read, as a share of its letters and digits",
    )
    min_letters: int = Field(3, ge=1, description="letters and digits below which a quotation is not compared")


class QuotationGate(ReaderGate):
    """Refuse a text that quotes what is not to be read in the picture; the value is the share of edits.

    Only quotations count of which the text says that they are written there.  A picture that was not read refuses none.
    Case, width, spaces and punctuation do not count.
    """

    Config = QuotationKeys

    def verdict(self, text: Written) -> Verdict:
        """The verdict on one text."""
        shown = self.shown(text)
        if shown is None:
            return ACCEPTED
        read = _plain(shown)[:_MOST_READ]
        for quoted in map(_plain, quotations(text.text)):
            if len(quoted) >= self.config.min_letters:
                distance = part_distance(quoted, read) / len(quoted)
                if distance > self.config.max_distance:
                    return Verdict(True, distance)
        return ACCEPTED


def quotations(text: str) -> list[str]:
    """What a text says is written in the picture.

    >>> quotations('A sign that says "STOP" in front of the film "Psycho"')
    ['STOP']
    """
    found = []
    end, before_said = 0, False
    for quote in _QUOTED.finditer(text):
        before, behind = text[max(end, quote.start() - _BEFORE) : quote.start()], text[quote.end() :][:_BEHIND]
        # What is said of a quotation holds for those that are listed with it.
        before_said = bool(_WRITTEN.search(f"{before} {behind}")) or (before_said and bool(_LISTED.fullmatch(before)))
        end = quote.end()
        if before_said:
            found.append(next(group for group in quote.groups() if group is not None))
    return found


def _plain(text: str) -> str:
    return _LETTERS.sub("", fold(text))


def part_distance(short: str, text: str) -> int:
    """The fewest edits that turn `short` into a part of `text` (Sellers 1980).

    >>> part_distance("stop", "xxstqpxx"), part_distance("stop", "")
    (1, 4)
    """
    row = [0] * (len(text) + 1)
    for at, letter in enumerate(short, start=1):
        above, row = row, [at]
        for end, other in enumerate(text):
            row.append(min(above[end] + (letter != other), above[end + 1] + 1, row[end] + 1))
    return min(row)
