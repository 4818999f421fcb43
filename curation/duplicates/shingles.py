"""Texts as sets of character n-grams (shingles), many texts at once, and the exact Jaccard similarity of such sets.

A text is first folded: NFKC, without case (`pairmill.folding`), without characters that are not seen, each run of
spaces, control characters and punctuation as one space.  It is then read with a space on either side, and the n-gram
that starts at a character has `ngram` characters, or `dense_ngram` where that character is a syllable or a word by
itself (Han, kana, Hangul, bopomofo, Yi).  So the script decides, character by character, and a text in two scripts
does not tip from one rule to the other by one edit.  Scripts without spaces need no words here: n-grams of characters
do for Thai what they do for German.

The defaults, n-grams of 4 and 2, are shorter than those of tools for documents (Data-Juicer: 5 tokens, NeMo Curator:
24 characters), because captions are short.  Of English captions of 45 characters with one character replaced, 96 % keep
a similarity of 0.7 by n-grams of 4, 87 % by 5, and 63 % by words; with two words swapped, 89 %, 50 % and all.  Of pairs
of different real captions, about as many reach 0.7 by each.

A text that is shorter than its first n-gram is one shingle as a whole, so short texts are alike only if they are equal.

A shingle is known by 64 bits of a hash.  All functions depend on nothing but their arguments.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curation.duplicates.kinds import Indices
from pairmill.folding import fold

Hashes = npt.NDArray[np.uint64]

_SPACE, _END = ord(" "), ord("\n")
_PLAIN, _DENSE, _GAP, _UNSEEN = range(4)

# Odd, and otherwise arbitrary; the constants of `mixed` are those of SplitMix64 (Steele, Lea and Flood 2014).
_BASE = np.uint64(0xA24BAED4963EE407)

# Texts or pairs that are worked on at once, and about how many characters or shingles they have together: megabytes.
_ITEMS, _LETTERS = 1 << 13, 1 << 20
# Bits of a sketch: as many as a byte of the hash can name.
_SKETCH = 256
# A sorted word has 48 bits of a hash, and above them the number of its text or pair.
_HASH_BITS, _NUMBER_BITS = np.uint64(48), np.uint64(16)


class Shingles(NamedTuple):
    """The shingles of some texts, one text behind the other.

    hashes: uint64 [shingles].  start, size: int64 [texts], where those of a text begin, and how many there are.
    """

    hashes: Hashes
    start: Indices
    size: Indices


def folded(texts: pa.ChunkedArray) -> pa.Array:
    """The texts in the form that is compared, string [n]; null for a text that is null or has nothing to compare."""
    if not len(texts):
        return pa.array([], pa.string())
    there = pc.replace_substring(pc.fill_null(texts, ""), "\n", " ")
    points = _points("\n".join([*fold("\n".join(there.to_pylist())).split("\n"), ""]))
    kind = _kinds()[points]
    end = points == _END
    gap = (kind == _GAP) & ~end
    kept = (kind != _UNSEEN) | end
    points, end, gap = np.where(gap, _SPACE, points)[kept].astype(np.uint32), end[kept], gap[kept]
    # Of each run of spaces the first stays, unless it begins or ends a text.
    before = np.concatenate([[True], (gap | end)[:-1]])
    kept = ~(gap & before)
    points, end, gap = points[kept], end[kept], gap[kept]
    kept = ~(gap & np.concatenate([end[1:], [True]]))
    array = pa.array(points[kept].tobytes().decode("utf-32-le").split("\n")[:-1], pa.string())
    return pc.if_else(pc.equal(array, ""), pa.scalar(None, pa.string()), array)


def shingled(texts: Sequence[str], *, ngram: int, dense_ngram: int) -> Shingles:
    """The shingles of folded texts; one that occurs twice in a text may be there twice.

    texts: of at least one character each.
    """
    if not len(texts):
        empty = np.empty(0, np.int64)
        return Shingles(np.empty(0, np.uint64), empty, empty)
    longest = max(ngram, dense_ngram)
    # A space on either side of a text, and behind it so many nulls that no n-gram reaches the next one.
    nulls = "\0" * longest
    points = _points("".join([f" {text} {nulls}" for text in texts]))
    length = np.fromiter(map(len, texts), np.int64, len(texts)) + 2
    start = np.cumsum(length + longest) - (length + longest)
    dense = _kinds()[points] == _DENSE
    dense[:-1] |= (points[:-1] == _SPACE) & dense[1:]  # a space counts as what follows it
    grams = _ngrams(points, ngram)
    if dense.any():
        grams = np.where(dense, _ngrams(points, dense_ngram), grams)
    left = np.repeat(start + length, length + longest) - np.arange(len(points))  # characters to the end of the text
    whole = np.where(dense, dense_ngram, ngram) <= left
    whole[start] = True
    before = np.concatenate([[0], np.cumsum(whole)])
    begin = before[start]
    return Shingles(mixed(grams[whole]), begin, before[start + length] - begin)


def distinct(texts: Sequence[str], *, ngram: int, dense_ngram: int) -> Shingles:
    """The sets of shingles of folded texts: each shingle once for its text, as 48 bits of its hash."""
    found = []
    for part in portions(np.fromiter(map(len, texts), np.int64, len(texts))):
        some = shingled(texts[part], ngram=ngram, dense_ngram=dense_ngram)
        held = np.sort(_numbered(some, np.arange(len(some.size))))
        held = held[np.concatenate([[True], held[1:] != held[:-1]])]
        size = np.bincount((held >> _HASH_BITS).astype(np.int64), minlength=len(some.size))
        found.append((held << _NUMBER_BITS, size))
    if not found:
        return shingled([], ngram=ngram, dense_ngram=dense_ngram)
    size = np.concatenate([size for _, size in found])
    return Shingles(np.concatenate([held for held, _ in found]), np.cumsum(size) - size, size)


def jaccard(sets: Shingles, a: Indices, b: Indices) -> npt.NDArray[np.float64]:
    """The Jaccard similarity of texts a[i] and b[i], [n]: shingles of both, divided by shingles of either.

    sets: from `distinct`.  Two shingles of a pair count as equal if 48 bits of their hashes are: by chance, in one of
    10^11 pairs of 50 each.
    """
    found = np.zeros(len(a))
    for part in portions(sets.size[a] + sets.size[b]):
        some, others = a[part], b[part]
        both = np.sort(np.concatenate([_numbered(sets, some), _numbered(sets, others)]))
        shared = both[1:][both[1:] == both[:-1]] >> _HASH_BITS
        common = np.bincount(shared.astype(np.int64), minlength=len(some))
        found[part] = common / (sets.size[some] + sets.size[others] - common)
    return found


def sketches(sets: Shingles) -> Hashes:
    """For each text 256 bits, [texts, 4], of which those are set that its shingles name.

    A bit that only one of two texts has stands for a shingle that only it has, so the sets differ in at least as many
    shingles as the sketches in bits (Sandes et al. 2020, "Bitmap filter: speeding up exact set similarity joins").
    """
    made = np.empty((len(sets.size), _SKETCH // 64), np.uint64)
    for part in portions(sets.size):
        size = sets.size[part]
        begin = int(sets.start[part.start])
        named = (sets.hashes[begin : begin + int(size.sum())] >> np.uint64(56)).astype(np.int64)
        bits = np.zeros(len(size) * _SKETCH, np.bool_)
        bits[np.repeat(np.arange(len(size)) * _SKETCH, size) + named] = True
        made[part] = np.packbits(bits).view(np.uint64).reshape(len(size), -1)
    return made


def _numbered(shingles: Shingles, texts: Indices) -> Hashes:
    """The shingles of at most 2^16 texts, text by text: 48 bits of each, and above them the position of its text."""
    size = shingles.size[texts]
    behind = np.cumsum(size)
    at = np.arange(size.sum()) + np.repeat(shingles.start[texts] - (behind - size), size)
    number = np.repeat(np.arange(len(texts), dtype=np.uint64), size)
    numbered: Hashes = shingles.hashes[at] >> _NUMBER_BITS | number << _HASH_BITS
    return numbered


def portions(sizes: Indices) -> Iterator[slice]:
    """Consecutive items, of so many characters or shingles each, that are worked on at once."""
    behind, begin = np.cumsum(sizes), 0
    while begin < len(sizes):
        reached = int(behind[begin - 1]) if begin else 0
        end = min(begin + _ITEMS, max(begin + 1, int(np.searchsorted(behind, reached + _LETTERS, "right"))))
        yield slice(begin, min(end, len(sizes)))
        begin = end


def mixed(values: Hashes) -> Hashes:
    """A bijection of 64 bits in which each bit of a value changes half of the result's."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    values = values ^ (values >> np.uint64(31))
    return values


def _ngrams(points: npt.NDArray[np.uint32], n: int) -> Hashes:
    """A polynomial of the n code points from each position on, [points]; nulls follow the last."""
    padded = np.concatenate([points, np.zeros(n, np.uint32)]).astype(np.uint64) + np.uint64(1)
    grams = padded[: len(points)] + np.uint64(n)
    for at in range(1, n):
        grams *= _BASE
        grams += padded[at : at + len(points)]
    return grams


def _points(text: str) -> npt.NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


@cache
def _kinds() -> npt.NDArray[np.uint8]:
    """For each code point what it is to the comparison."""
    import regex  # not needed to read a recipe, and slow to import

    every = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)]))
    kinds = np.full(0x110000, _PLAIN, np.uint8)
    for kind, pattern in (
        (_GAP, r"[\p{P}\p{Z}\p{Cc}]+"),
        (_DENSE, r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Bopomofo}\p{Yi}]+"),
        (_UNSEEN, r"\p{Default_Ignorable_Code_Point}+"),
    ):
        for match in regex.finditer(pattern, every):
            first, last = ord(every[match.start()]), ord(every[match.end() - 1])
            kinds[first : last + 1] = kind
    return kinds
