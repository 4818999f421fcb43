"""Base of the kinds whose rows are duplicates if they have equal values."""

from __future__ import annotations

import hashlib
from functools import reduce

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curation.duplicates.edges import combined, stars
from curation.duplicates.kinds import KEYS, Indices, Kind

# Odd, so that no bit of an earlier column's hash is lost.
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


class EqualValues(Kind):
    """Rows that agree in all `columns`; a row that lacks one of them is no duplicate.

    columns: of strings, bytes, numbers, booleans or times.
    """

    def keys(self, rows: pa.Table) -> pa.Table:
        """64 bits of a hash of the values."""
        there = np.flatnonzero(reduce(pc.and_, (pc.is_valid(rows[name]) for name in self.columns.names)))
        whole = rows.select(self.columns.names).take(pa.array(there))
        key = np.zeros(len(there), np.uint64)
        for column in whole.columns:
            key = key * _MULTIPLIER + _hashes(column)
        return pa.table({"row": there, "key": key.view(np.int64)}, schema=KEYS)

    def edges(self, rows: pa.Table) -> tuple[Indices, Indices]:
        """A star for each combination of values."""
        return stars(_groups(rows.select(self.columns.names)))


def _groups(rows: pa.Table) -> Indices:
    """A number for each row, equal for rows of equal values."""
    return reduce(combined, (_codes(column) for column in rows.columns))


def _codes(column: pa.ChunkedArray) -> Indices:
    codes: Indices = column.combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    return codes


def _hashes(column: pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    """64 bits for each value, the same in every process."""
    encoded = column.combine_chunks().dictionary_encode()
    hashes = np.array([_hash(value) for value in encoded.dictionary.to_pylist()], np.uint64)
    placed: npt.NDArray[np.uint64] = hashes[encoded.indices.to_numpy()]
    return placed


def _hash(value: object) -> int:
    # `repr` of strings, bytes, numbers and times is exact, and the same in every process.
    text = repr(value).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
