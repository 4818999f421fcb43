"""A list of words and phrases, found as whole words in scripts with spaces and anywhere in others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from curation.filters.scripts import UNSPACED
from pairmill.errors import RecipeError
from pairmill.folding import fold
from pairmill.regex import compile_later

_TOKEN = compile_later(rf"[{UNSPACED}]|(?:(?![{UNSPACED}])\w)+")


def words_of(text: str) -> list[str]:
    """The words of a text, folded; in scripts without spaces, its characters."""
    return list(_TOKEN.findall(fold(text)))


class WordList:
    """Entries indexed by their first word, so that a text is scanned once however long the list is.

    `ass` is found in "an ass." but not in "glass"; `赌博` is found anywhere in a text, Chinese having no spaces.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        phrases: dict[str, set[tuple[str, ...]]] = defaultdict(set)
        for entry in entries:
            if words := tuple(words_of(entry)):
                phrases[words[0]].add(words)
        self._phrases = {first: tuple(found) for first, found in phrases.items()}

    @staticmethod
    def load(source: tuple[str, ...] | Path) -> WordList:
        """The list of entries, or that of a file with one entry per line; built once per process.

        Raises RecipeError if the file cannot be read.
        """
        return _load(source)

    def found_in(self, text: str) -> bool:
        """Whether an entry occurs in `text`, whatever the case, width and punctuation."""
        words = words_of(text)
        return any(
            tuple(words[at : at + len(phrase)]) == phrase
            for at, word in enumerate(words)
            for phrase in self._phrases.get(word, ())
        )


@lru_cache(maxsize=8)
def _load(source: tuple[str, ...] | Path) -> WordList:
    return WordList(read_list(source, key="filter.listed_words") if isinstance(source, Path) else source)


def read_list(path: Path, *, key: str) -> list[str]:
    """The lines of a UTF-8 file without comments (from a leading #) and blank lines.

    Raises RecipeError, naming the recipe's `key`, if it cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"{key} must name a readable text file in UTF-8",
            value=f"{path}: {type(error).__name__}",
            fix="give the path of a file with one entry a line",
        ) from error
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
