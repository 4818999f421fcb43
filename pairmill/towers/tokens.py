"""Texts to token ids as open_clip makes them, without open_clip: what a reader carries to the nodes that read.

Every core of every node runs a reader process.  open_clip's tokenizers come with torch, timm and transformers: 10 s and
900 MB each.  The ids need the Rust library under them and a few lines of cleaning.
"""

from __future__ import annotations

import functools
import gzip
import html
import os
import string
from collections.abc import Callable, Sequence

import ftfy
import numpy as np
import numpy.typing as npt
import regex
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from pairmill.packages import package_file

# Readers run one to a core: the library's threads would only slow each other down.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

START, END = "<start_of_text>", "<end_of_text>"

#: The pieces that open_clip's tokenizer cuts a text into before it looks for byte pairs.
_WORDS = regex.compile(
    rf"{START}|{END}|'s|'t|'re|'ve|'m|'ll|'d|[\p{{L}}]+|[\p{{N}}]|[^\s\p{{L}}\p{{N}}]+", regex.IGNORECASE
)

#: The lines of its vocabulary file that it takes for merges: 49,408 ids less 256 bytes, each also at a word's end, and
#: the two marks.
_MERGES = slice(1, 1 + 49408 - 2 * 256 - 2)

_NO_PUNCTUATION = str.maketrans("_", " ", string.punctuation.replace("_", ""))


def _repaired(text: str) -> str:
    """Broken encodings fixed, HTML entities replaced (twice: `&amp;amp;` is common)."""
    return html.unescape(html.unescape(ftfy.fix_text(text)))


def _spaced(text: str) -> str:
    return " ".join(text.split())


#: open_clip's ways of cleaning, by its names for them (`tokenizer_kwargs.clean`).
CLEANERS: dict[str, Callable[[str], str]] = {
    "whitespace": lambda text: _spaced(_repaired(text)),
    "lower": lambda text: _spaced(_repaired(text)).lower(),
    "canonicalize": lambda text: _spaced(_repaired(text).translate(_NO_PUNCTUATION).lower()),
}


class OpenClipTokens:
    """The ids of open_clip's own tokenizer (SimpleTokenizer): start, text, end.  Pickles to its two settings."""

    def __init__(self, context_length: int, clean: str = "lower") -> None:
        """context_length: of a text, in tokens, start and end included.  clean: a key of `CLEANERS`."""
        self._settings = context_length, clean

    def __call__(self, texts: Sequence[str]) -> list[npt.NDArray[np.int32]]:
        """int32 [L] of each text, 2 <= L <= context_length."""
        length, clean = self._settings
        backend = _open_clip_backend()
        words = [_WORDS.findall(CLEANERS[clean](text)) for text in texts]
        start, end = backend.token_to_id(START), backend.token_to_id(END)
        return [
            np.array([start, *encoded.ids[: length - 2], end], np.int32)
            for encoded in backend.encode_batch(words, is_pretokenized=True, add_special_tokens=False)
        ]


class BackendTokens:
    """The ids of a Hugging Face tokenizer by its Rust part alone.  Pickles whole."""

    def __init__(self, backend: Tokenizer, clean: str, zeroed: int | None) -> None:
        """backend: truncates, does not pad.  clean: a key of `CLEANERS`.  zeroed: this id is given as 0."""
        self._parts = backend, clean, zeroed

    def __call__(self, texts: Sequence[str]) -> list[npt.NDArray[np.int32]]:
        """int32 [L] of each text, 0 <= L <= where the backend truncates."""
        backend, clean, zeroed = self._parts
        rows = [np.array(e.ids, np.int32) for e in backend.encode_batch([CLEANERS[clean](text) for text in texts])]
        return rows if zeroed is None else [np.where(row == zeroed, 0, row) for row in rows]


@functools.lru_cache(maxsize=1)
def _open_clip_backend() -> Tokenizer:
    """Byte pairs in the words of `_WORDS`, from open_clip's vocabulary file.  Raises UserError where it is missing."""
    with gzip.open(package_file("open_clip", "bpe_simple_vocab_16e6.txt.gz"), "rt", encoding="utf-8") as lines:
        merges = [(first, second) for first, second in map(str.split, lines.read().split("\n")[_MERGES])]
    printable = [chr(byte) for byte in (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))]
    single = printable + [chr(256 + n) for n in range(256 - len(printable))]
    pieces = [*single, *(f"{piece}</w>" for piece in single), *(first + second for first, second in merges), START, END]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, end_of_word_suffix="</w>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in (START, END)])
    return backend
