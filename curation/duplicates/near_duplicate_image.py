"""Near-duplicate images: pairs of like perceptual hashes and like colours, found without comparing all.

The 64-bit hashes differ in at most d bits, and the colours are at most c apart (`curation.duplicates.colours`): the
hash sees only grey, and a product in eight colours is eight pictures.  What is coloured must be large enough to change
the mean of one of 8 x 8 parts: of ten pictures that differ in the colour of a dot alone, all are kept if it is 1 % of
their area, 9 if it is 0.5 %, and 2 if it is 0.1 %.

Cut the hash into d + 1 blocks of bits: of two hashes that differ in at most d bits, at least one block is the same
(pigeonhole; Norouzi et al. 2012, "Fast search in Hamming space with multi-index hashing").  So each row is sent to
d + 1 places, one for each (block number, block value), and only rows that meet are compared: for N random hashes
about (d + 1) · N² / 2^(1 + 64/(d + 1)) pairs instead of N²/2, 1,400 times fewer at d = 4.

Few edges result.  Rows of the same hash are linked in stars, each around a leader whose colours are at most c from
theirs; of the pairs of leaders that meet, a minimum spanning forest is kept.  So there are fewer edges than rows that
meet, however large a family of near-duplicates is.  Connected components are those of all pairs, unless the colours of
one hash pass into each other over more than c; then they depend on which row leads, which the rows' values decide.
Memory is O(rows that meet); time is O(pairs of leaders that meet).

Flat pictures (one colour, a gradient, a straight edge) have hashes of almost only zeros or almost only ones whatever
they show (0 by `curation.images.measure.perceptual_hash`), and would link unrelated pictures.  A hash with fewer than
`min_bits` ones or zeros is therefore left out: such images are duplicates only if their bytes are equal.  (Any other
picture has about 32 ones; a random hash has fewer than 8 with probability 4e-11.)
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from curation.duplicates.colours import NUMBERS, Layouts, known, layouts, leaders, within
from curation.duplicates.kinds import KEYS, Indices, Kind
from pairmill.registry import NamedConfig

Hashes = npt.NDArray[np.uint64]

HASH_BITS = 64

# Most rows of one hash that are all compared with others, which links every close pair.  Of more rows only leaders are.
_COMPARED = 64
# Hashes compared at once: 16k of them with their keys and results stay in a core's second-level cache.
_CHUNK = 1 << 14
# Pairs found before they are reduced to a forest: 16 MB.
_MAX_PAIRS = 1 << 20


@cache
def _bits_set() -> npt.NDArray[np.uint8]:
    """How many bits are set in each number of 16 bits."""
    return np.array([bin(value).count("1") for value in range(1 << 16)], dtype=np.uint8)


def _count_by_table(values: Hashes) -> npt.NDArray[np.uint8]:
    """Bits set in each value; NumPy before 2.0 lacks it."""
    halves = _bits_set()[np.ascontiguousarray(values).view(np.uint16)]
    count: npt.NDArray[np.uint8] = halves.reshape(-1, 4).sum(axis=1, dtype=np.uint8)
    return count


bit_count = np.bitwise_count if hasattr(np, "bitwise_count") else _count_by_table


def blocks(max_distance: int) -> list[tuple[int, int]]:
    """(shift, mask) of the max_distance + 1 blocks of bits, as equal in width as 64 allows."""
    count = max_distance + 1
    edges = [HASH_BITS * i // count for i in range(count + 1)]
    return [(low, (1 << (high - low)) - 1) for low, high in pairwise(edges)]


class NearDuplicateImageConfig(NamedConfig):
    """How similar near-duplicates are."""

    max_distance: int = Field(
        4, ge=0, le=15, description="most bits of 64 in which the perceptual hashes of near-duplicates differ"
    )
    min_bits: int = Field(
        8,
        ge=0,
        le=32,
        description="least ones and zeros (bits) of a hash that is compared; with fewer the picture is flat, and is "
        "compared by its bytes only",
    )
    max_colour: int = Field(
        8,
        ge=0,
        le=400,
        description="most levels (of 255) by which the colours of near-duplicates differ, in each of 8 x 8 parts; luma "
        "counts half, and a part has its mean colour: pictures that differ in the colour of less than 0.5 % of their "
        "area may be near-duplicates; 400: colours do not count",
    )


class NearDuplicateImage(Kind):
    """Images whose perceptual hashes differ in at most `max_distance` bits, and whose colours are alike."""

    name, strength = "near_duplicate_image", 10
    reads = ("phash", "colours")
    columns = pa.schema([("phash", pa.uint64()), ("colours", pa.binary())])
    Config = NearDuplicateImageConfig
    config: NearDuplicateImageConfig

    @property
    def keys_per_row(self) -> int:
        """One for each block of bits."""
        return self.config.max_distance + 1

    @property
    def row_bytes(self) -> int:
        """A hash and colours."""
        return HASH_BITS // 8 + NUMBERS

    def keys(self, rows: pa.Table) -> pa.Table:
        """Number and value of each block of bits, for each row with an informative hash."""
        max_distance, min_bits = self.config.max_distance, self.config.min_bits
        row = np.flatnonzero(pc.and_(rows["phash"].is_valid(), known(rows["colours"])))
        phash = _hashes(rows.take(pa.array(row)))
        ones = bit_count(phash)
        informative = (ones >= min_bits) & (ones <= HASH_BITS - min_bits)
        row, phash = row[informative], phash[informative]
        if max_distance == 0:
            return pa.table({"row": row, "key": phash.view(np.int64)}, schema=KEYS)
        # With two blocks or more a block has at most 32 bits, which leaves the upper half for its number.
        keys = [
            (phash >> np.uint64(shift)) & np.uint64(mask) | np.uint64(number << 32)
            for number, (shift, mask) in enumerate(blocks(max_distance))
        ]
        key = np.concatenate(keys).view(np.int64)
        return pa.table({"row": np.tile(row, max_distance + 1), "key": key}, schema=KEYS)

    def edges(self, rows: pa.Table) -> tuple[Indices, Indices]:
        """Pairs that are close: fewer than rows, and connecting what all close pairs connect.

        Of more than `_COMPARED` rows of one hash, only those that lead others of like colours are compared further.
        """
        max_distance, max_colour = self.config.max_distance, self.config.max_colour
        key = rows["key"].to_numpy()
        phash, colours = _hashes(rows), layouts(rows["colours"])
        order = np.lexsort((phash, key))
        key, phash, colours = key[order], phash[order], colours[order]
        changes = np.ones(len(order), dtype=bool)
        changes[1:] = (key[1:] != key[:-1]) | (phash[1:] != phash[:-1])
        centre = leaders(changes, colours, max_colour)
        group = np.cumsum(changes) - 1
        few = np.flatnonzero((np.bincount(group, minlength=1)[group] <= _COMPARED) & (centre != np.arange(len(centre))))
        unlike = few[~within(colours, few, colours, centre[few], 0)]
        centre[unlike] = unlike
        leads = centre == np.arange(len(centre))
        heads = np.flatnonzero(leads)
        # Rows of the same hash meet in every band; their stars come from the first.
        first_band = (key >> 32 == 0) if max_distance else np.ones(len(key), dtype=bool)
        others = np.flatnonzero(~leads & first_band)

        left, right = _close_pairs(key[heads], phash[heads], colours[heads], max_distance, max_colour)
        a = np.concatenate([centre[others], heads[left]])
        b = np.concatenate([others, heads[right]])
        return order[a], order[b]


def _hashes(rows: pa.Table) -> Hashes:
    hashes: Hashes = rows["phash"].to_numpy()
    return hashes


def _close_pairs(
    key: Indices, phash: Hashes, colours: Layouts, max_distance: int, max_colour: int
) -> tuple[Indices, Indices]:
    """A spanning forest of the pairs of equal key that are close, as indices (left, right).

    key, phash, colours: [n], sorted by key.
    """

    def alike(found: list[tuple[Indices, Indices]]) -> tuple[Indices, Indices]:
        """Those of the pairs of close hashes that meet here first and are of like colours."""
        one, other = (np.concatenate([pair[end] for pair in found] or [left[:0]]) for end in (0, 1))
        here = _meet_here_first(key[one], phash[one] ^ phash[other], max_distance)
        one, other = one[here], other[here]
        same = within(colours, one, colours, other, max_colour)
        return one[same], other[same]

    _, start, size = np.unique(key, return_index=True, return_counts=True)
    # Buckets by size, so that those of a chunk need about the same number of steps; single rows meet none.
    by_size = np.argsort(size, kind="stable")
    by_size = by_size[size[by_size] > 1]
    left = right = np.empty(0, dtype=np.int64)
    for chosen in _chunks(size[by_size]):
        bucket_sizes = size[by_size[chosen]]
        offset = np.arange(bucket_sizes.sum()) - np.repeat(np.cumsum(bucket_sizes) - bucket_sizes, bucket_sizes)
        rows = np.repeat(start[by_size[chosen]], bucket_sizes) + offset
        chunk_key, chunk_hash = key[rows], phash[rows]
        found: list[tuple[Indices, Indices]] = []
        pairs = 0
        # Each step compares every row with the one `step` places later: contiguous, without a square of pairs.
        for step in range(1, int(bucket_sizes.max())):
            at = np.flatnonzero(bit_count(chunk_hash[step:] ^ chunk_hash[:-step]) <= max_distance)
            at = at[chunk_key[at] == chunk_key[at + step]]
            found.append((rows[at], rows[at + step]))
            pairs += len(at)
            if pairs > _MAX_PAIRS:
                left, right = _forest(left, right, *alike(found), phash)
                found, pairs = [], 0
        left, right = _forest(left, right, *alike(found), phash)
    return left, right


def _chunks(size: Indices) -> Iterator[slice]:
    """Consecutive buckets of at most `_CHUNK` rows together; a larger bucket is a chunk of its own."""
    begin = rows = 0
    for at, more in enumerate(size.tolist()):
        if rows + more > _CHUNK and at > begin:
            yield slice(begin, at)
            begin, rows = at, 0
        rows += more
    if begin < len(size):
        yield slice(begin, len(size))


def _meet_here_first(key: Indices, differing: Hashes, max_distance: int) -> npt.NDArray[np.bool_]:
    """Mask of the pairs for which this band is the first they share, so that each pair is found once."""
    if max_distance == 0:  # the whole hash is the only band
        return np.ones(len(key), np.bool_)
    first = np.full(len(key), max_distance + 1)
    for number, (shift, mask) in reversed(list(enumerate(blocks(max_distance)))):
        first[(differing >> np.uint64(shift)) & np.uint64(mask) == 0] = number
    here: npt.NDArray[np.bool_] = first == key >> 32
    return here


def _forest(left: Indices, right: Indices, one: Indices, other: Indices, phash: Hashes) -> tuple[Indices, Indices]:
    """A minimum spanning forest, by bits of difference, of the earlier pairs (left, right) and new ones."""
    from scipy.sparse import coo_array  # not needed to read a recipe, and slow to import
    from scipy.sparse.csgraph import minimum_spanning_tree

    if not len(one):
        return left, right
    left, right = np.append(left, one), np.append(right, other)
    nodes, ends = np.unique(np.concatenate([left, right]), return_inverse=True)
    a, b = ends.reshape(2, -1)
    # A distance of zero would mean no edge.
    distance = bit_count(phash[left] ^ phash[right]) + 1
    tree = coo_array(minimum_spanning_tree(coo_array((distance, (a, b)), shape=(len(nodes), len(nodes))).tocsr()))
    return nodes[tree.row], nodes[tree.col]
