"""Near-duplicate texts: captions of which most n-grams of characters agree, found without comparing all pairs.

Two captions are duplicates if the Jaccard similarity of their sets of n-grams (`curation.duplicates.shingles`) is at
least `threshold`.  Their pictures may differ: of equal words under different pictures one pair stays.  To drop only
rows that are alike in picture and text, leave this kind off; `duplicate_pair` and `near_duplicate_image` do it.

MinHash (Broder 1997, "On the resemblance and containment of documents"): of a set, keep the least value of each of
many hash functions; for two sets of similarity s, each is equal with probability s.  Cut these into bands of r values
(Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", 3.4): rows with an equal band meet, and with b bands
that happens with probability 1 - (1 - s^r)^b.  `banding` derives r and b from the threshold and from the probability
that a pair exactly at the threshold meets.  The defaults give 17 bands of 5: a pair of similarity 0.7 meets with
probability 0.956, of 0.75 with 0.990, of 0.8 with 0.999, but of 0.3 with 0.04 and of 0.1 with 0.0002.  A threshold
below 0.7 costs more, as 24 bands cannot keep strangers apart any more.

Signatures only bring rows together: each pair that is linked is compared by its n-grams.  So nothing below the
threshold is ever linked, and what is missed are pairs that no band brought together and no third text connects.

Few edges result.  Rows of equal text are linked in a star; distinct texts are compared once for each pair that meets,
the first of a bucket with all others, and then those that are not connected yet.  So a caption under a million
pictures costs a million steps, and so does a family of texts that are all like one of them.  Before the n-grams of a
pair are compared, 256 bits of each show whether they can be alike at all (`shingles.sketches`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from curation.duplicates.edges import stars
from curation.duplicates.kinds import KEYS, Indices, Kind
from curation.duplicates.near_duplicate_image import bit_count
from pairmill.errors import RecipeError
from pairmill.registry import NamedConfig

if TYPE_CHECKING:
    from curation.duplicates.shingles import Shingles

#: Most bands that are chosen for a user: each is a copy of the row in the shuffle.
MAX_BANDS = 24
#: Most bands of all; the number of one fits into the upper bits of a key.
MOST_BANDS = 100

# Odd: a band's values are the digits of a number to this base, modulo 2^64.
_JOINING = np.uint64(0x9E3779B97F4A7C15)
# Similarity of texts that should not meet, and how many of them may.
_STRANGE, _STRANGERS_MET = 0.2, 0.01
# A key's bits below the number of its band.
_BAND_BITS = 56
# Numbers that are permuted at once, 256 kB for the second-level cache; and from how many texts at least.
_BLOCK, _COLUMNS = 1 << 16, 16
# Pairs compared before what they connect counts as connected.
_PAIRS = 1 << 16
# Similarities of sets of fewer than 30,000 n-grams differ by more than this, or not at all.
_EXACT = 1e-9


def banding(threshold: float, recall: float) -> tuple[int, int]:
    """(bands, rows) that bring a pair at the threshold together; the fewest rows that keep strangers apart.

    Strangers have a similarity of 0.2, and are apart if at most 1 % of them meet; `MAX_BANDS` may come before that.
    recall: the least probability, below 1, with which a pair at the threshold meets.
    """
    best = _bands(threshold, recall, 1), 1
    for rows in range(2, 33):
        bands, before = _bands(threshold, recall, rows), best
        if bands > MAX_BANDS or 1 - (1 - _STRANGE ** before[1]) ** before[0] <= _STRANGERS_MET:
            break
        best = bands, rows
    return best


def _bands(threshold: float, recall: float, rows: int) -> int:
    meets = threshold**rows
    return 1 if meets >= recall else math.ceil(math.log1p(-recall) / math.log1p(-meets))


class NearDuplicateTextConfig(NamedConfig):
    """How similar near-duplicates are, and how surely they are found."""

    threshold: float = Field(
        0.7,
        ge=0.5,
        le=1,
        description="least Jaccard similarity of the n-grams of captions that are duplicates (0.7: as Data-Juicer)",
    )
    ngram: int = Field(4, ge=1, le=32, description="characters of an n-gram; a caption that is shorter is one n-gram")
    dense_ngram: int = Field(
        2, ge=1, le=32, description="the same where it starts with a Chinese, Japanese or Korean character"
    )
    recall: float = Field(
        0.95, ge=0.5, le=0.999, description="least probability that a pair exactly at the threshold is found"
    )
    bands: int | None = Field(
        None, ge=1, le=MOST_BANDS, description="bands of the signature, each a key of the row; null: as `recall` needs"
    )
    rows: int | None = Field(None, ge=1, le=32, description="values of a band; null: as `recall` needs")
    seed: int = Field(0, ge=0, description="chooses the hash functions")


class NearDuplicateText(Kind):
    """Captions whose n-grams of characters have a Jaccard similarity of at least `threshold`, whatever their pictures.

    Case, width, punctuation and spaces do not count.
    """

    name, strength = "near_duplicate_text", 5
    reads = ("caption",)
    columns = pa.schema([("folded_caption", pa.string())])
    Config = NearDuplicateTextConfig
    config: NearDuplicateTextConfig

    def banding(self) -> tuple[int, int]:
        """How many bands a signature has, and how many values a band has."""
        config = self.config
        rows = config.rows or banding(config.threshold, config.recall)[1]
        if config.bands is not None:
            return config.bands, rows
        bands = _bands(config.threshold, config.recall, rows)
        if bands > MOST_BANDS:
            reached = 1 - (1 - config.threshold**rows) ** MOST_BANDS
            raise RecipeError(
                f"{self.name} must reach its recall with {MOST_BANDS} bands at most",
                value=f"rows: {rows}, recall: {config.recall:g}; {MOST_BANDS} bands find {reached:.3g} of the pairs",
                fix="leave rows out, lower it, or lower recall; or set bands, which says what is found",
            )
        return bands, rows

    @property
    def keys_per_row(self) -> int:
        """One for each band."""
        return self.banding()[0]

    def narrow(self, rows: pa.Table) -> Mapping[str, pa.Array | pa.ChunkedArray]:
        """The caption in the form that is compared; null if it has nothing to compare."""
        from curation.duplicates.shingles import folded  # not needed to read a recipe, and slow to import

        return {"folded_caption": folded(rows["caption"])}

    def keys(self, rows: pa.Table) -> pa.Table:
        """Number and hash of each band, for each row with a text."""
        from curation.duplicates.shingles import portions

        there = np.flatnonzero(rows["folded_caption"].is_valid())
        encoded = rows["folded_caption"].take(pa.array(there)).combine_chunks().dictionary_encode()
        texts = encoded.dictionary.to_pylist()
        bands, _ = self.banding()
        keys = np.empty((bands, len(texts)), np.int64)
        for part in portions(np.fromiter(map(len, texts), np.int64, len(texts))):
            keys[:, part] = self._banded(texts[part])
        key = keys[:, encoded.indices.to_numpy()].reshape(-1)
        return pa.table({"row": np.tile(there, bands), "key": key}, schema=KEYS)

    def edges(self, rows: pa.Table) -> tuple[Indices, Indices]:
        """Pairs of at least `threshold`: a star for each text, and between texts what connects all that meet."""
        key = rows["key"].to_numpy()
        order = np.argsort(key)
        begins = _begins(key[order])
        met = order[~(begins & np.append(begins[1:], True))]  # most rows have a key to themselves
        encoded = rows["folded_caption"].take(pa.array(met)).combine_chunks().dictionary_encode()
        text, key = encoded.indices.to_numpy().astype(np.int64), key[met]
        first = np.unique(text, return_index=True)[1]

        # Rows of the same text meet in every band; their stars come from the first.
        in_first = np.flatnonzero(key >> _BAND_BITS == 0)
        centre, others = stars(text[in_first])
        left, right = self._connecting(encoded.dictionary, text, np.cumsum(_begins(key)) - 1)
        a = np.concatenate([in_first[centre], first[left]])
        b = np.concatenate([in_first[others], first[right]])
        return met[a], met[b]

    def _banded(self, texts: list[str]) -> Indices:
        """The keys of some texts, [bands, texts]."""
        from curation.duplicates.shingles import mixed, shingled

        bands, rows = self.banding()
        factors = _factors(self.config.seed, bands * rows).reshape(bands, rows)
        shingles = shingled(texts, ngram=self.config.ngram, dense_ngram=self.config.dense_ngram)
        values = (shingles.hashes >> np.uint64(32)).astype(np.uint32)
        banded = np.empty((bands, len(texts)), np.uint64)
        by_size = np.argsort(shingles.size, kind="stable")
        while len(by_size):
            # A block has a text in each column.  They are of about one size; a shorter one repeats its last shingle.
            needed = shingles.size[by_size[:_BLOCK]] * np.arange(1, min(_BLOCK, len(by_size)) + 1)
            some, by_size = np.split(by_size, [max(_COLUMNS, int(np.searchsorted(needed, _BLOCK, "right")))])
            size = shingles.size[some]
            block = values[shingles.start[some] + np.minimum(np.arange(size.max())[:, None], size - 1)]
            product, least = np.empty_like(block), np.empty(len(some), np.uint32)
            joined = np.empty(len(some), np.uint64)
            for band in range(bands):
                joined.fill(0)
                for factor in factors[band]:
                    np.minimum.reduce(np.multiply(block, factor, out=product), axis=0, out=least)
                    joined *= _JOINING
                    joined += least
                banded[band, some] = joined
        banded = mixed(banded)
        number = np.arange(bands, dtype=np.uint64)[:, None] << np.uint64(_BAND_BITS)
        return (banded >> np.uint64(64 - _BAND_BITS) | number).view(np.int64)

    def _connecting(self, texts: pa.Array, text: Indices, bucket: Indices) -> tuple[Indices, Indices]:
        """Positions (left, right) in `texts` of alike texts, which connect what all alike texts of a bucket connect.

        text, bucket: [n], of each row, by bucket; buckets are numbered from 0.
        """
        from curation.duplicates.shingles import distinct

        # Each text once in each bucket, and of the texts those that meet another.
        bucket, text = np.divmod(_distinct(bucket * len(texts) + text), max(1, len(texts)))
        shared = np.bincount(bucket, minlength=1)[bucket] > 1 if len(bucket) else np.empty(0, np.bool_)
        known, text = np.unique(text[shared], return_inverse=True)
        bucket = np.cumsum(_begins(bucket[shared])) - 1
        start = np.flatnonzero(_begins(bucket))
        end = np.append(start[1:], len(bucket))
        config = self.config
        sets = distinct(texts.take(pa.array(known)).to_pylist(), ngram=config.ngram, dense_ngram=config.dense_ngram)
        families = _Families(sets, config.threshold)

        rest = np.flatnonzero(start[bucket] != np.arange(len(bucket)))
        families.compare(text[start[bucket[rest]]], text[rest])
        # Of what is not connected yet, each step compares every row with the one `step` places later in its bucket.
        step = 1
        while len(rest):
            family = families.of[text]
            divided = np.minimum.reduceat(family, start) != np.maximum.reduceat(family, start)
            rest = rest[divided[bucket[rest]]]
            pairs = [np.empty((2, 0), np.int64)]
            while len(rest) and sum(one.shape[1] for one in pairs) < _PAIRS:
                rest = rest[rest + step < end[bucket[rest]]]
                apart = rest[family[rest] != family[rest + step]]
                pairs.append(np.stack([text[apart], text[apart + step]]))
                step += 1
            families.compare(*np.concatenate(pairs, axis=1))
        return known[families.left], known[families.right]


class _Families:
    """Which texts are connected by pairs that were compared and are alike.

    of: [texts], the family of each.  left, right: the alike pairs that connect them.
    """

    def __init__(self, sets: Shingles, threshold: float) -> None:
        from curation.duplicates.shingles import sketches

        self.of = np.arange(len(sets.size))
        self.left = self.right = np.empty(0, np.int64)
        self._sets, self._sketches, self._threshold = sets, sketches(sets), threshold

    def compare(self, a: Indices, b: Indices) -> None:
        """Compare texts a[i] and b[i], unless they are connected by then, and connect those that are alike."""
        from scipy.sparse import coo_array  # not needed to read a recipe, and slow to import
        from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

        from curation.duplicates.shingles import jaccard

        texts = len(self.of)
        pairs = _distinct(np.minimum(a, b) * texts + np.maximum(a, b))
        for begin in range(0, len(pairs), _PAIRS):
            left, right = np.divmod(pairs[begin : begin + _PAIRS], texts)
            left, right = self._may_be_alike(left, right)
            alike = jaccard(self._sets, left, right) >= self._threshold - _EXACT
            left, right = left[alike], right[alike]
            if not len(left):
                continue
            # A spanning forest of the families that these pairs connect: each edge is the number of a pair, from 1.
            families = int(self.of.max()) + 1
            one, other = np.sort([self.of[left], self.of[right]], axis=0)
            pair = np.unique(one * families + other, return_index=True)[1]
            graph = coo_array((pair + 1.0, (one[pair], other[pair])), shape=(families, families))
            forest = minimum_spanning_tree(graph.tocsr())
            self.of = connected_components(forest, directed=False)[1].astype(np.int64)[self.of]
            kept = forest.data.astype(np.int64) - 1
            self.left, self.right = np.append(self.left, left[kept]), np.append(self.right, right[kept])

    def _may_be_alike(self, left: Indices, right: Indices) -> tuple[Indices, Indices]:
        """The pairs that are not connected yet and of which the sketches allow that they are alike."""
        apart = self.of[left] != self.of[right]
        left, right = left[apart], right[apart]
        both = self._sets.size[left] + self._sets.size[right]
        differ = bit_count(self._sketches[left] ^ self._sketches[right]).sum(1, dtype=np.int64)
        differ = np.maximum(differ, np.abs(self._sets.size[left] - self._sets.size[right]))
        # Where d shingles are in one set only, (both - d) / 2 are in both, and (both + d) / 2 in either.
        allowed = both - differ >= (self._threshold - _EXACT) * (both + differ)
        return left[allowed], right[allowed]


def _distinct(values: Indices) -> Indices:
    """The distinct values, sorted; `np.unique` of NumPy 2.3 and later takes several times as long."""
    values = np.sort(values)
    return values[_begins(values)]


def _begins(groups: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Mask of the rows whose group is not that of the row before."""
    return np.concatenate([np.ones(min(1, len(groups)), np.bool_), groups[1:] != groups[:-1]])


@cache
def _factors(seed: int, count: int) -> npt.NDArray[np.uint32]:
    """Odd numbers: multiplying by one of them, modulo 2^32, permutes all hashes of 32 bits."""
    return np.random.default_rng(seed).integers(0, 1 << 31, count, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
