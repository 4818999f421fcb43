"""Terms that a translation must keep, or must translate in one way.

A file of lines in UTF-8.  A line of one term: it must be in every translation as it is (a brand, a name).  A line of
three, with tabs between them: the term, a target language, and the term in that language; several lines of one term
allow either.  Empty lines, and those that begin with `#`, count for nothing.

    Pairmill
    New York	zh	纽约
    ladybird	de	Marienkäfer
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from pairmill.config import digest
from pairmill.errors import UserError
from pairmill.languages import canonical

#: A letter or digit of a script in which a term ends where a word does; Han, Kana and Hangul do not show that.
_IN_WORD = r"[^\W_\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uac00-\ud7af]"
_FORM = "TERM, or TERM, LANGUAGE and TRANSLATION with a tab between them"


class Glossary:
    """Which terms of a text its translation must have."""

    def __init__(self, kept: set[str], translated: dict[str, dict[str, list[str]]]) -> None:
        """kept: terms that stay as they are.  translated: target language -> term -> its translations."""
        self._kept, self._translated = kept, translated
        self._patterns: dict[str, re.Pattern[str]] = {}

    @property
    def digest(self) -> str:
        """A digest of its terms: of what decides, not of comments or order."""
        return digest([sorted(self._kept), self._translated])

    def lost(self, source_text: str, text: str, target: str) -> str | None:
        """The first term of the source that the translation does not have; None if it has all.

        Of terms within each other the longest counts.  A term in small letters stands for itself with capitals too; in
        the translation, another ending is no loss.
        """
        wanted = self._terms(target)
        pattern = self._patterns.get(target)
        if pattern is None:
            pattern = self._patterns[target] = _any_of(wanted)
        for found in dict.fromkeys(match[0] for match in pattern.finditer(source_text)):
            term = found if found in wanted else found.lower()
            if term in wanted and not any(_begins(one).search(text) for one in wanted[term]):
                return term
        return None

    def _terms(self, target: str) -> dict[str, list[str]]:
        return {**{term: [term] for term in self._kept}, **self._translated.get(target, {})}


def read_glossary(path: Path) -> Glossary:
    """The terms of a file.  Raises UserError for one that cannot be read, and for a line of another form."""
    try:
        lines = path.expanduser().read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError, RuntimeError) as error:  # not UTF-8, a character that no path has, no home
        raise UserError(
            "translate.glossary must be a text file in UTF-8 that every node can read",
            value=f"{str(path)!r}: {getattr(error, 'strerror', None) or error}",
            fix="correct the path or the file",
        ) from error
    kept: set[str] = set()
    translated: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = [part.strip() for part in line.split("\t")]
        if len(parts) not in (1, 3) or not all(parts):
            raise UserError(
                f"a line of translate.glossary must be {_FORM}", value=f"{path}:{number}: {line!r}", fix="correct it"
            )
        if len(parts) == 1:
            kept.add(parts[0])
        else:
            translated[canonical(parts[1])][parts[0]].append(parts[2])
    return Glossary(kept, translated)


def _any_of(terms: dict[str, list[str]]) -> re.Pattern[str]:
    longest_first = sorted(terms, key=lambda term: (-len(term), term))
    return re.compile("|".join(_whole(term) for term in longest_first) or r"(?!)")


def _whole(term: str) -> str:
    before = rf"(?<!{_IN_WORD})" if re.match(_IN_WORD, term[0]) else ""
    behind = rf"(?!{_IN_WORD})" if re.match(_IN_WORD, term[-1]) else ""
    return before + _spelled(term) + behind


def _begins(term: str) -> re.Pattern[str]:
    before = rf"(?<!{_IN_WORD})" if re.match(_IN_WORD, term[0]) else ""
    return re.compile(before + _spelled(term))


def _spelled(term: str) -> str:
    spelled = r"\s+".join(re.escape(word) for word in term.split())
    return f"(?i:{spelled})" if term == term.lower() else spelled
