"""Lists of significant words: made by counting the words of a dataset, kept in a file that people may edit.

    word    language    times   texts       tab-separated, under this header, the most frequent of a language first

A file by hand may hold words only, one a line: what follows the first tab is not read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from pairmill.config import bytes_digest
from pairmill.errors import RecipeError
from pairmill.folding import fold
from training.data.word_counts import WordCount

_HEADER = "word\tlanguage\ttimes\ttexts"


def word_list_text(words: Sequence[WordCount]) -> str:
    """The content of a file of words."""
    return "\n".join([_HEADER, *("\t".join(map(str, one)) for one in words), ""])


def read_word_list(file: str) -> tuple[frozenset[str], str]:
    """The folded words of a file, and the digest of its content.

    Raises RecipeError if it cannot be read, is no UTF-8, or holds no word.
    """
    try:
        content = Path(file).read_bytes()
        lines = content.decode("utf-8-sig").splitlines()
    except OSError as error:
        raise _refused(file, error.strerror or error) from error
    except UnicodeDecodeError as error:
        raise _refused(file, f"not UTF-8: {error}") from error
    lines = lines[1:] if lines and lines[0] == _HEADER else lines
    words = folded_words(line.partition("\t")[0] for line in lines)
    if not words:
        raise _refused(file, "it holds no word")
    return words, bytes_digest(content)


def folded_words(words: Iterable[str]) -> frozenset[str]:
    """The words as they are compared, without blank ones."""
    return frozenset(filter(None, (fold(word.strip()) for word in words)))


def _refused(file: str, why: object) -> RecipeError:
    return RecipeError(
        "data.texts: words must be the path of a list in UTF-8 with a word a line",
        value=f"{file}: {why}",
        fix="correct the path; `pairmill count-words` makes such a list",
    )
