"""A sample of a run's embedded rows: the same rows in the same order however the run is divided into shards.

They are those with the smallest keyed hashes of their uids, as any rows are as likely as any others.  Shards are read
one after the other and only what may be in the sample is kept, so memory is that of three samples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pairmill.errors import IntegrityError
from pairmill.faults import fault_point
from pairmill.layout import SELECTIONS
from pairmill.store import Store

_HASH = "_hash"


def sampled(
    store: Store,
    table: str,
    columns: Sequence[str],
    *,
    rows: int,
    seed: int = 0,
    selection: str | None = None,
    beside: Callable[[int], pa.Table] | None = None,
) -> pa.Table:
    """At most so many rows of a table that have all of `columns`, by the hash of their uids; uid, columns, `beside`.

    selection: of the run; only rows that it keeps.  beside: uid and further columns of a shard, which may be null.
    A uid that the list repeats is in it once.
    Raises IntegrityError if it gives other rows.
    """
    found: list[pa.Table] = []
    last = np.uint64(2**64 - 1)  # the largest hash that may be in the sample
    for shard in sorted(store.index(table)):
        fault_point("fit.sample")
        loaded = store.load(table, shard, ["uid", *columns])
        if beside is not None:
            other = beside(shard)
            if not other["uid"].equals(loaded["uid"]):
                raise IntegrityError(f"what is beside {table} must have its rows, in their order: shard {shard}")
            for column in other.drop_columns(["uid"]).schema.names:
                loaded = loaded.append_column(column, other[column])
        there = pc.is_valid(loaded["uid"])
        for column in columns:
            there = pc.and_(there, pc.is_valid(loaded[column]))
        if selection is not None:
            there = pc.and_(there, store.load(f"{SELECTIONS}/{selection}", shard, ["keep"])["keep"])
        some = loaded.filter(there)
        hashes = np.array([_hash(uid, seed) for uid in some["uid"].to_pylist()], np.uint64)
        found.append(some.append_column(_HASH, pa.array(hashes, pa.uint64())).filter(pa.array(hashes <= last)))
        if sum(map(len, found)) > 2 * rows:
            found = [_smallest(pa.concat_tables(found), rows)]
            if len(found[0]) == rows:  # less where the list repeats rows
                last = found[0][_HASH].to_numpy()[-1]
    if not found:
        return pa.table({"uid": pa.array([], pa.string())})
    return _smallest(pa.concat_tables(found), rows).drop_columns([_HASH])


def _smallest(rows: pa.Table, most: int) -> pa.Table:
    """The rows with the smallest hashes, each uid once."""
    _, first = np.unique(rows[_HASH].to_numpy(), return_index=True)
    return rows.take(pa.array(first[:most]))


def _hash(uid: str, seed: int) -> int:
    key = seed.to_bytes(8, "little")
    return int.from_bytes(hashlib.blake2b(uid.encode(), digest_size=8, key=key).digest(), "little")
