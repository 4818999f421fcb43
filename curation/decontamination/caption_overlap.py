"""Captions of an evaluation set that stand in a row's caption: whole, or 13 words of them in a row.

A caption is read as `curation.duplicates.shingles.folded` leaves it (case, width, punctuation and spaces do not count),
as a sequence of words.  In scripts that are written without spaces between words, every character is one of its own.

A caption of the set is cut into n-grams of `words` words, or of `characters` characters where the n-gram begins with
such a character.  (13 words: Brown et al. 2020, "Language Models are Few-Shot Learners", appendix C.)  Most captions
are shorter than that; then the whole caption is its one n-gram, if it is long enough to say something: "a dog" is
written under many pictures.  A row is a match if one n-gram of a caption stands in its own, with anything before and
behind it.

An n-gram is known by 64 bits of a hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from curation.decontamination.match_kinds import Matches, MatchKind, Pictures, Places
from pairmill.registry import NamedConfig

Hashes = npt.NDArray[np.uint64]

_BASE = np.uint64(0xA24BAED4963EE407)  # odd, and otherwise arbitrary


class CaptionOverlapConfig(NamedConfig):
    """How much of a caption must be the same."""

    words: int = Field(13, ge=1, le=64, description="words of an n-gram; a caption that is shorter is one n-gram")
    characters: int = Field(
        26, ge=1, le=128, description="the same in characters, where it begins in a script without spaces"
    )
    least: float = Field(
        5,
        ge=1,
        description="words that a caption of the set must have to be compared; a character of a script without spaces "
        "counts words / characters",
    )


class _Index(NamedTuple):
    """For each length of an n-gram: hashes, ascending, and the n-gram of each; and of all n-grams the caption.

    size: n-grams of each caption.  item: of each caption.
    """

    grams: dict[int, tuple[Hashes, Places]]
    caption: Places
    size: Places
    item: Places


class CaptionOverlap(MatchKind):
    """Captions with an n-gram in common, or of which the shorter is part of the other."""

    name = "caption"
    reads = ("caption",)
    Config = CaptionOverlapConfig
    config: CaptionOverlapConfig

    def index(self, reference: pa.Table) -> Any:
        """The n-grams of all captions, by their length."""
        lists = reference["captions"].to_pylist()
        item = np.array([at for at, texts in enumerate(lists) for _ in texts or ()], np.int64)
        texts = [text for some in lists for text in some or ()]
        by_length: dict[int, list[tuple[int, int]]] = {}  # hash, caption
        for at, tokens in enumerate(tokens_of(texts)):
            for length, number in self._ngrams(tokens):
                by_length.setdefault(length, []).append((number, at))
        caption: list[int] = []
        grams = {}
        for length, found in sorted(by_length.items()):
            found = sorted(set(found))
            hashes = np.array([number for number, _ in found], np.uint64)
            grams[length] = hashes, np.arange(len(caption), len(caption) + len(found))
            caption += [at for _, at in found]
        of = np.array(caption, np.int64)
        return _Index(grams, of, np.bincount(of, minlength=len(texts)), item)

    def matches(self, rows: pa.Table, index: Any, pictures: Pictures) -> Matches:
        """Rows that hold an n-gram of an item; the similarity is the share of its caption's n-grams that they hold."""
        tokens = list(tokens_of(rows["caption"].to_pylist()))
        size = np.fromiter(map(len, tokens), np.int64, len(tokens))
        flat = np.fromiter((one for some in tokens for one in some), np.uint64, int(size.sum()))
        row = np.repeat(np.arange(len(tokens)), size)
        left = np.repeat(np.cumsum(size), size) - np.arange(len(flat))  # tokens to the end of the caption
        held = [np.empty((2, 0), np.int64)]
        for length, (hashes, gram) in index.grams.items():
            at = np.flatnonzero(left >= length)
            if not len(at):
                continue
            windows = _joined(flat, length)[at]
            first, last = np.searchsorted(hashes, windows, "left"), np.searchsorted(hashes, windows, "right")
            hit = np.flatnonzero(last > first)
            count = (last - first)[hit]
            place = np.arange(count.sum()) + np.repeat(first[hit] - (np.cumsum(count) - count), count)
            held.append(np.stack([np.repeat(row[at[hit]], count), gram[place]]))
        pairs = np.unique(np.concatenate(held, axis=1), axis=1)
        # Of each row and caption, how many of its n-grams; of each row and item, the best caption.
        both, shared = np.unique(np.stack([pairs[0], index.caption[pairs[1]]]), axis=1, return_counts=True)
        share = shared / np.maximum(1, index.size[both[1]])
        order = np.lexsort((-share, index.item[both[1]], both[0]))
        mine, item, share = both[0][order], index.item[both[1]][order], share[order]
        first_of = np.ones(len(mine), np.bool_)
        first_of[1:] = (mine[1:] != mine[:-1]) | (item[1:] != item[:-1])
        return Matches(mine[first_of], item[first_of], share[first_of].astype(np.float32))

    def _ngrams(self, tokens: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Length and hash of each n-gram of a caption of the set."""
        config = self.config
        if not tokens:
            return
        flat = np.array(tokens, np.uint64)
        dense = (flat & np.uint64(1)).astype(bool)
        wanted = np.where(dense, config.characters, config.words)
        if wanted[0] > len(flat):
            weight = np.where(dense, config.words / config.characters, 1.0).sum()
            if weight >= config.least - 1e-9:
                yield len(flat), int(_joined(flat, len(flat))[0])
            return
        for length in (config.words, config.characters):
            here = np.flatnonzero((wanted == length) & (np.arange(len(flat)) + length <= len(flat)))
            if len(here):
                yield from ((length, int(one)) for one in _joined(flat, length)[here])


def tokens_of(texts: Sequence[str | None]) -> Iterator[list[int]]:
    """The words and characters of each text as hashes of 64 bits, whose last one is set for characters."""
    from curation.duplicates.shingles import folded  # not needed to read a recipe, and slow to import

    for text in folded(pa.chunked_array([pa.array(list(texts), pa.string())])).to_pylist():
        found = _pattern().findall(text) if text else []
        yield [_hash(word, bool(dense)) for dense, word in ((one[0], one[0] or one[1]) for one in found)]


@cache
def _pattern() -> Any:
    """A character of a script without spaces between words, with its marks; else the longest run without any."""
    import regex  # not needed to read a recipe, and slow to import

    scripts = ("Han", "Hiragana", "Katakana", "Bopomofo", "Yi", "Thai", "Lao", "Khmer", "Myanmar", "Tibetan")
    dense = "".join(rf"\p{{{script}}}" for script in scripts)
    return regex.compile(rf"([{dense}]\p{{M}}*)|([^\s{dense}]+)")


@lru_cache(maxsize=1 << 16)
def _hash(token: str, dense: bool) -> int:
    number = int.from_bytes(hashlib.blake2b(token.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
    return number | 1 if dense else number & ~1


def _joined(tokens: Hashes, length: int) -> Hashes:
    """A hash of the `length` tokens from each position on, [len(tokens)]; those at the end lack some."""
    from curation.duplicates.shingles import mixed

    found = np.full(len(tokens), length, np.uint64)
    padded = np.concatenate([tokens, np.zeros(length, np.uint64)])
    with np.errstate(over="ignore"):
        for at in range(length):
            found *= _BASE
            found += padded[at : at + len(tokens)]
    return mixed(found)
