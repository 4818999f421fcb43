"""Where the sentences of a text end, in scripts with and without spaces."""

from __future__ import annotations

import re

#: Abbreviations whose point ends no sentence; single letters (`J. Smith`) do not either.
_ABBREVIATION = re.compile(
    r"\b(?:mr|mrs|ms|dr|st|no|vs|etc|e\.g|i\.e|approx|prof|jr|sr|inc|ltd|bzw|z\.b|ca|mme|sra?|\w)\.$", re.IGNORECASE
)
#: A mark that ends a sentence, with the quotes and brackets that close behind it.
_END = re.compile(r"(?:[.!?…]+[\"'”’»)\]]*(?=\s|\Z)|[。！？｡]+[」』”’）]*)")


def sentences(text: str) -> tuple[list[str], str]:
    """The whole sentences of a text, with their marks, and what follows the last of them.

    >>> sentences("A dog runs. Dr. Who watches! And then a")
    (['A dog runs.', 'Dr. Who watches!'], 'And then a')
    """
    whole, start = [], 0
    for found in _END.finditer(text):
        if found[0] == "." and _ABBREVIATION.search(text[start : found.end()]) and found.end() < len(text.rstrip()):
            continue
        sentence = text[start : found.end()].strip()
        if sentence:
            whole.append(sentence)
        start = found.end()
    return whole, text[start:].strip()
