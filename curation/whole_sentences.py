"""Where the sentences of a text end, in scripts with and without spaces."""

from __future__ import annotations

import re

#: Abbreviations whose point ends no sentence; single letters (`J. Smith`) do not either.
_ABBREVIATION = re.compile(
    r"\b(?:mr|mrs|ms|dr|st|no|vs|etc|e\.g|i\.e|approx|prof|jr|sr|inc|ltd|bzw|z\.b|ca|mme|sra?|\w)\.$", re.IGNORECASE
)
#: A mark that ends a sentence, with the quotes and brackets that close behind it.  Those that need no space behind them
#: are of Chinese and Japanese, of Indic scripts, and of Arabic, Ethiopic, Armenian, Khmer and Burmese.
_END = re.compile(r"(?:(?<![.!?…])[.!?…]+[\"'”“’»«)\]]*(?=\s|\Z)|[。！？｡।॥؟۔።፧։។៕။]+[」』”’»）)\"]*)")
#: Characters before a point that are enough to recognise an abbreviation.
_LONGEST_ABBREVIATION = 12


def sentences(text: str) -> tuple[list[str], str]:
    """The whole sentences of a text, with their marks, and what follows the last of them.

    >>> sentences("A dog runs. Dr. Who watches! And then a")
    (['A dog runs.', 'Dr. Who watches!'], 'And then a')
    """
    whole, start = [], 0
    length = len(text.rstrip())
    for found in _END.finditer(text):
        last_word = text[max(start, found.end() - _LONGEST_ABBREVIATION) : found.end()]
        if found[0] == "." and found.end() < length and _ABBREVIATION.search(last_word):
            continue
        sentence = text[start : found.end()].strip()
        if sentence:
            whole.append(sentence)
        start = found.end()
    return whole, text[start:].strip()
