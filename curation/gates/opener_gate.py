"""Boilerplate openers, which are stripped: "The image shows a dog" becomes "A dog"."""

from __future__ import annotations

import re
from functools import cache

from curation.gates.gate import ACCEPTED, GateKeys, TextGate, Verdict, Written
from curation.listed_patterns import listed_patterns

#: What stands between an opener and the text.
_BETWEEN = " \t\n,:：，、-–—*"
#: Openers that follow each other: "Sure! Here is a caption: The image shows …".
_MOST_OPENERS = 3
_WORD = re.compile(r"\w")


class OpenerGate(TextGate):
    """Strip what captioners say before they say anything: `The image shows`, `这张图片展示了`.

    `curation/data/openers.txt` has the phrases, in 15 languages.  The text is changed and not refused, unless nothing
    else is in it; its scores stay those of the text as the model wrote it.
    """

    Config = GateKeys

    def verdict(self, text: Written) -> Verdict:
        """The verdict on one text."""
        stripped = without_opener(text.text)
        if stripped == text.text:
            return ACCEPTED
        return Verdict(False, text=stripped) if _WORD.search(stripped) else Verdict(True)


def without_opener(text: str) -> str:
    """The text without its openers, with a capital where the opener had one.

    >>> without_opener("The image shows a dog."), without_opener("这张图片展示了一只狗。")
    ('A dog.', '一只狗。')
    """
    left = text
    for _ in range(_MOST_OPENERS):
        found = _opener().match(left)
        if found is None or not found[0].strip():
            break
        left = left[found.end() :].lstrip(_BETWEEN)
    if left == text:
        return text
    return left[:1].upper() + left[1:] if text.lstrip()[:1].isupper() else left


@cache
def _opener() -> re.Pattern[str]:
    return re.compile(rf"[\s\"“'*]*(?:{'|'.join(listed_patterns('openers.txt'))})", re.IGNORECASE)
