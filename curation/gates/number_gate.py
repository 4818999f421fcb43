"""Numbers that a model wrote and nothing else knows of: years, prices, large counts."""

from __future__ import annotations

import re
import unicodedata

from pydantic import Field

from curation.gates.gate import ACCEPTED, GateKeys, Verdict, Written
from curation.gates.supported import ReaderGate

#: Digits with their separators; not those within a word that begins with a letter (`F16`, `mp3`).
_NUMBER = re.compile(r"(?<![^\W\d_])(?<!\d)(?:[0-9]{1,3}(?:[.,'][0-9]{3})+(?![0-9])|[0-9]+)(?:[.,][0-9]+)?")
_SEPARATOR = re.compile(r"[.,'](?=[0-9]{3}(?![0-9]))")
_NO_DIGIT = re.compile(r"[^0-9]+")


class NumberKeys(GateKeys):
    """What is counted, and what is compared."""

    ocr: str | None = Field(
        None,
        description="entry of `score` with the head ocr; a number that neither the alt text nor the picture's text has "
        "is refused; null: the alt text alone is compared, where it has such numbers itself",
    )
    most_counted: int = Field(
        20, ge=0, description="largest whole number that a captioner may have counted, which passes (12 balloons)"
    )


class NumberGate(ReaderGate):
    """Refuse a text with a number in digits that the row's evidence does not have; that number is the value.

    Where the picture was not read, or no `ocr` is named, only an alt text with such numbers of its own is evidence.
    """

    Config = NumberKeys

    def verdict(self, text: Written) -> Verdict:
        """The verdict on one text."""
        claimed = self._uncounted(text.text)
        if not claimed:
            return ACCEPTED
        shown, alt = self.shown(text), text.row["caption"] or ""
        if shown is None and not self._uncounted(alt):
            return ACCEPTED
        known = numbers(f"{alt}\n{shown or ''}")
        # Readers split and join lines: 19 / 84.
        digits = _NO_DIGIT.sub("", unicodedata.normalize("NFKC", shown or ""))
        unknown = [one for one in claimed if one not in known and _NO_DIGIT.sub("", one) not in digits]
        return Verdict(True, float(unknown[0])) if unknown else ACCEPTED

    def _uncounted(self, text: str) -> list[str]:
        """The numbers of a text that nobody counts by eye."""
        return [one for one in numbers(text) if "." in one or float(one) > self.config.most_counted]


def numbers(text: str) -> list[str]:
    """The numbers of a text in digits, without separators of thousands and zeros in front.

    >>> numbers("In 1984, 1,000 of 12.50 €; F16, ２０")
    ['1984', '1000', '12.5', '20']
    """
    found = []
    for match in _NUMBER.finditer(unicodedata.normalize("NFKC", text)):
        plain = _SEPARATOR.sub("", match[0]).replace(",", ".")
        whole, _, part = plain.partition(".")
        whole, part = whole.lstrip("0") or "0", part.rstrip("0")
        found.append(f"{whole}.{part}" if part else whole)
    return found
