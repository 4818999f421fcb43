"""Find the k-th row of each group of the whole run, exactly, in memory that does not grow with the rows.

A cut is the rank of the last row of a group that stays; a group without a cut stays whole.  Three ways lead to it:

    few rows     all are brought to one place and sorted
    many groups  equal groups are brought together, each place holds some of them and sorts
    large ones   a group that no place can hold: the rows are counted by the next bits of their rank, and of each group
                 only the bucket with the k-th row is looked at again (radix selection); each pass reads the narrow
                 columns once and returns counts; when few candidates are left they are sorted

The result is the same whichever way it is found, and however the rows are divided.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curation.selections.ranking import RANKED, WORDS, Ranks, Words, ranks, up_to

Ints = npt.NDArray[np.int64]

#: Rows of a shard as `RANKED`.
Read = Callable[[int], pa.Table]

#: (rows of each group, rows of all groups) -> which row of each group is its last, from 1; none of it is cut from
#: its number of rows on.
Wanted = Callable[[Ints, int], Ints]

#: How many rows each group has; in a line that is not `large`, groups are taken together.
SIZES = pa.schema([("group", pa.string()), ("rows", pa.int64()), ("large", pa.bool_())])

_BITS = 64
_BUCKETS = pa.schema([(name, pa.int64()) for name in ("code", "digit", "rows")])
_CODED = RANKED.append(pa.field("code", pa.int64()))


@dataclass(frozen=True)
class Limits:
    """rows: that one place holds.  buckets: counts of a radix pass over all groups."""

    rows: int = 1_000_000
    buckets: int = 1 << 22


class Passes(Protocol):
    """One pass over the shards of a run; all results come to the caller, so they must be small."""

    def collected(self, read: Read, apply: Callable[[pa.Table], pa.Table], schema: pa.Schema) -> pa.Table:
        """`apply` of the rows of all shards together, in one place.  schema: of what `read` gives."""

    def shuffled(self, read: Read, apply: Callable[[pa.Table], pa.Table], schema: pa.Schema) -> pa.Table:
        """`apply` where rows of equal `key` (int64) are brought together, without it, its results one after the other.

        schema: of the results.
        """


class _Large(NamedTuple):
    """Groups that no place holds: their names, and which row of each is the last."""

    names: pa.Array
    last: Ints


def find_cuts(
    passes: Passes,
    read: Read,
    wanted: Wanted,
    *,
    rows: int,
    words: int = len(WORDS),
    always: bool = False,
    limits: Limits | None = None,
) -> pa.Table:
    """The cuts: schema `RANKED`, a line for each group that is cut, by group.

    rows: at most so many are read.  words: of the rank that count; those after them are 0.
    always: a group whose last row is its last anyway has a line too.
    """
    limits = limits or Limits()
    here = partial(_sorted_cuts, wanted=wanted, always=always)

    def sort_all() -> pa.Table:
        return passes.collected(read, lambda all_rows: here(all_rows, total=len(all_rows)), RANKED)

    if rows <= limits.rows:
        return sort_all().sort_by("group")
    sizes = passes.shuffled(_Counted(read), partial(_summed, most=limits.rows), SIZES)
    total = int(pc.sum(sizes["rows"]).as_py() or 0)
    if total <= limits.rows:
        return sort_all().sort_by("group")
    large = sizes.filter(sizes["large"]).sort_by("group")
    names = large["group"].combine_chunks()
    found = [RANKED.empty_table()]
    # Where every group is large there is nothing to bring together, and Ray Data's shuffle fails on no rows at all.
    if total > int(pc.sum(large["rows"]).as_py() or 0):
        found.append(passes.shuffled(_Small(read, names), partial(here, total=total), RANKED))
    size = large["rows"].to_numpy()
    last = wanted(size, total)
    cut = (last < size) | always
    if cut.any():
        found.append(_radix(passes, read, _Large(names.filter(pa.array(cut)), last[cut]), words, limits))
    return pa.concat_tables(found).sort_by("group")


def find_sizes(passes: Passes, read: Read, *, above: int = -1) -> pa.Table:
    """How many rows each group with more than `above` rows has (group, rows), by group.

    Memory is that of these groups' names.
    """
    return (
        passes.shuffled(_Counted(read), partial(_summed, most=above), SIZES)
        .filter(pc.field("large"))
        .select(["group", "rows"])
        .sort_by("group")
    )


def cut_of(group: pa.ChunkedArray | None, cuts: pa.Table, rows: int) -> tuple[Ranks, npt.NDArray[np.bool_]]:
    """The cut of each row's group, and which rows have one.  group: None: all rows are one."""
    at = _places(pa.repeat("", rows) if group is None else group, cuts["group"])
    there = at >= 0
    return Ranks(*(word[np.maximum(at, 0)] if len(cuts) else np.zeros(rows, np.uint64) for word in ranks(cuts))), there


def kept_by(rows: pa.Table, cuts: pa.Table) -> npt.NDArray[np.bool_]:
    """Mask of ranked rows that the cuts leave.  rows: schema `RANKED`."""
    cut, there = cut_of(rows["group"], cuts, len(rows))
    return up_to(ranks(rows), cut) | ~there


def _sorted_cuts(rows: pa.Table, wanted: Wanted, total: int, always: bool) -> pa.Table:
    """The cuts of groups that are here whole."""
    if not len(rows):
        return RANKED.empty_table()
    group = rows["group"].combine_chunks().dictionary_encode(null_encoding="encode").indices.to_numpy()
    words = ranks(rows)
    order = np.lexsort((words.low, words.high, words.score, group))
    begins = np.flatnonzero(np.r_[True, np.diff(group[order]) != 0])
    size = np.diff(np.r_[begins, len(order)])
    last = wanted(size, total)
    cut = (last < size) | always
    at = order[(begins + last - 1)[cut]]
    return rows.select(RANKED.names).take(pa.array(at))


class _Counted:
    """How many rows of each group a shard has, with a key that brings equal groups together."""

    def __init__(self, read: Read) -> None:
        self._read = read

    def __call__(self, shard: int) -> pa.Table:
        rows = self._read(shard)
        return _keyed(_counts(rows["group"]))


class _Small:
    """The rows of a shard whose group is none of the large ones, with a key that brings equal groups together."""

    def __init__(self, read: Read, large: pa.Array) -> None:
        self._read, self._large = read, large

    def __call__(self, shard: int) -> pa.Table:
        rows = self._read(shard)
        return _keyed(rows.filter(pa.array(_places(rows["group"], self._large) < 0)))


def _counts(group: pa.ChunkedArray) -> pa.Table:
    found = pc.value_counts(group.combine_chunks())
    return pa.table({"group": found.field("values"), "rows": found.field("counts")})


def _summed(counts: pa.Table, most: int) -> pa.Table:
    """The groups with more rows than `most`, and the rows of all others in one line."""
    if not len(counts):
        return SIZES.empty_table()
    encoded = counts["group"].combine_chunks().dictionary_encode(null_encoding="encode")
    rows = np.bincount(encoded.indices.to_numpy(), counts["rows"].to_numpy(), len(encoded.dictionary)).astype(np.int64)
    large = rows > most
    return pa.table(
        {
            "group": pa.concat_arrays([encoded.dictionary.filter(pa.array(large)), pa.nulls(1, pa.string())]),
            "rows": np.r_[rows[large], rows[~large].sum()],
            "large": np.r_[large[large], False],
        },
        schema=SIZES,
    )


def _keyed(rows: pa.Table) -> pa.Table:
    encoded = rows["group"].combine_chunks().dictionary_encode(null_encoding="encode")
    keys = np.array([zlib.crc32(str(name).encode()) for name in encoded.dictionary.to_pylist()], np.int64)
    return rows.append_column("key", pa.array(keys[encoded.indices.to_numpy()], pa.int64()))


def _places(group: pa.ChunkedArray | pa.Array, among: pa.ChunkedArray | pa.Array) -> Ints:
    """The position of each group `among` some; -1 where it is none of them.  Null is a group."""
    values = among.combine_chunks() if isinstance(among, pa.ChunkedArray) else among
    at = pc.index_in(group, value_set=values)
    found: Ints = np.asarray(pc.fill_null(at, -1), np.int64)
    return found


# Radix selection


class _Prefix(NamedTuple):
    """What is known of each cut: the first `bits` bits of its rank; of the rows with these, `last` is its place."""

    words: tuple[Words, ...]
    bits: int
    last: Ints


def _radix(passes: Passes, read: Read, large: _Large, words: int, limits: Limits) -> pa.Table:
    groups = len(large.names)
    nothing = np.zeros(groups, np.uint64)
    known = _Prefix((nothing,) * len(WORDS), 0, large.last)
    width = max(1, min(16, (limits.buckets // groups).bit_length() - 1))
    while known.bits < words * _BITS:
        known, left = _narrowed(passes, _Bucketed(read, large.names, known, width), known, width)
        if left <= limits.rows:
            candidates = _Candidates(read, large.names, known)
            return passes.collected(candidates, partial(_nth, names=large.names, last=known.last), _CODED)
    columns = dict(zip(WORDS, known.words, strict=True))
    return pa.table({"group": large.names, **columns}, schema=RANKED)


def _narrowed(passes: Passes, read: Read, known: _Prefix, width: int) -> tuple[_Prefix, int]:
    """More bits of each cut, and how many rows of all groups have them."""
    take = min(width, _BITS - known.bits % _BITS)
    counts = passes.shuffled(read, _added, _BUCKETS)
    group, digit, rows = (counts[name].to_numpy() for name in ("code", "digit", "rows"))
    order = np.lexsort((digit, group))
    group, digit, rows = group[order], digit[order], rows[order]
    begins = np.searchsorted(group, np.arange(len(known.last)))
    seen = np.cumsum(rows)
    before = np.r_[0, seen][begins]
    # The first bucket of each group up to which there are `last` rows.
    at = np.searchsorted(seen, before + known.last)
    last = known.last - (np.r_[0, seen][at] - before)
    word, within = divmod(known.bits, _BITS)
    more = digit[at].astype(np.uint64) << np.uint64(_BITS - within - take)
    prefix = [one | more if number == word else one for number, one in enumerate(known.words)]
    return _Prefix(tuple(prefix), known.bits + take, last), int(rows[at].sum())


class _Bucketed:
    """How many rows of a shard have each group's prefix and each value of the bits after it; nothing of other rows."""

    def __init__(self, read: Read, names: pa.Array, known: _Prefix, width: int) -> None:
        self._candidates, self._bits, self._width = _Candidates(read, names, known), known.bits, width

    def __call__(self, shard: int) -> pa.Table:
        rows = self._candidates(shard)
        word, within = divmod(self._bits, _BITS)
        take = min(self._width, _BITS - within)
        digit = rows[WORDS[word]].to_numpy() << np.uint64(within) >> np.uint64(_BITS - take)
        both = rows["code"].to_numpy() << take | digit.astype(np.int64)
        found, counts = np.unique(both, return_counts=True)
        columns = {"code": found >> take, "digit": found & (1 << take) - 1, "rows": counts, "key": found}
        return pa.table({name: pa.array(values, pa.int64()) for name, values in columns.items()})


class _Candidates:
    """The rows of a shard that have their group's prefix, with the group's number in the column `code`."""

    def __init__(self, read: Read, names: pa.Array, known: _Prefix) -> None:
        self._read, self._names, self._known = read, names, known

    def __call__(self, shard: int) -> pa.Table:
        rows = self._read(shard)
        code = _places(rows["group"], self._names)
        fits = code >= 0
        for number, (word, prefix) in enumerate(zip(ranks(rows), self._known.words, strict=True)):
            bits = min(_BITS, max(0, self._known.bits - number * _BITS))
            if bits:
                shift = np.uint64(_BITS - bits)
                fits &= word >> shift == prefix[np.maximum(code, 0)] >> shift
        return rows.append_column("code", pa.array(code)).filter(pa.array(fits))


def _added(counts: pa.Table) -> pa.Table:
    """Counts of equal code and digit added up."""
    code, digit, rows = (counts[name].to_numpy() for name in ("code", "digit", "rows"))
    order = np.lexsort((digit, code))
    code, digit, rows = code[order], digit[order], rows[order]
    if not len(order):
        return counts.select(["code", "digit", "rows"])
    begins = np.flatnonzero(np.r_[True, (np.diff(code) != 0) | (np.diff(digit) != 0)])
    return pa.table({"code": code[begins], "digit": digit[begins], "rows": np.add.reduceat(rows, begins)})


def _nth(rows: pa.Table, names: pa.Array, last: Ints) -> pa.Table:
    """The `last`-th of the candidates of each group, which are all here."""
    code, words = rows["code"].to_numpy(), ranks(rows)
    order = np.lexsort((words.low, words.high, words.score, code))
    begins = np.searchsorted(code[order], np.arange(len(names)))
    return rows.select(RANKED.names).take(pa.array(order[begins + last - 1]))
