"""The order in which the rows of a list are visited: an external sort by a keyed hash of the uid, cut into shards.

adds:  uid, index (int64, position in the input), drop_stage, drop_reason
drops: forgotten, duplicate_input

Sorting by that hash is a shuffle (so the hosts of a list spread over the shards and over time), needs the memory of
one bucket, and brings rows of equal uid together.  The shards of earlier lists have the same order, so walking both in
step finds the uids that are in both.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curation.forget.blanking import blanked
from curation.forget.tombstones import Tombstones
from curation.identity import row_uid, shuffle_key
from curation.inputs import InputConfig, read_rows
from curation.inputs.files import InputFile
from curation.schema import DROPS, FORGOTTEN, drop, set_columns
from curation.table import PLAN
from pairmill.store import Store

#: Why the plan drops a row: it was taken out of the run (`curation.forget`), or it is a duplicate.
PLAN_REASONS = (FORGOTTEN, "duplicate_input")

Keys = npt.NDArray[np.uint64]

#: Input bytes of a bucket of the external sort; a list's rows take a few times that in memory.
_BUCKET_BYTES = 64 * 2**20
_MAX_BUCKETS = 1024

#: Shards that are read ahead of the current one.
_AHEAD = 16


class KnownUids:
    """The uids of the lists that a run has already, read in step with ascending shuffle keys."""

    def __init__(self, store: Store, lists: Iterable[Sequence[int]], seed: int, pool: Executor) -> None:
        """lists: the shards of each list, in their order.  pool: reads them ahead."""
        self._walks = [_Walk(store, shards, seed, pool) for shards in lists]

    def among(self, keys: Keys, uids: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
        """Which of these rows, sorted by key, the run has already.  Keys must not decrease between calls."""
        found = np.zeros(len(keys), dtype=bool)
        for walk in self._walks:
            while walk.at is not None and walk.at.first <= keys[-1]:
                low = int(np.searchsorted(keys, walk.at.first, "left"))
                high = int(np.searchsorted(keys, walk.at.last, "right"))
                if high > low:
                    found[low:high] |= np.asarray(pc.is_in(uids.slice(low, high - low), value_set=walk.at.uids))
                if walk.at.last > keys[-1]:
                    break  # it may also have rows of the next call
                walk.step()
        return found


class _Shard(NamedTuple):
    first: np.uint64
    last: np.uint64
    uids: pa.Array


class _Walk:
    """The shards of one list in order; `at` is None after the last."""

    def __init__(self, store: Store, shards: Sequence[int], seed: int, pool: Executor) -> None:
        self._seed = seed
        self._tables = read_ahead(pool, store, shards, ["uid"])
        self.at: _Shard | None = None
        self.step()

    def step(self) -> None:
        table = next(self._tables, None)
        if table is None:
            self.at = None
            return
        uids = table["uid"].combine_chunks()
        first, last = (np.uint64(shuffle_key(uids[place].as_py(), self._seed)) for place in (0, -1))
        self.at = _Shard(first, last, uids)


def read_ahead(pool: Executor, store: Store, shards: Iterable[int], columns: list[str]) -> Iterator[pa.Table]:
    """Columns of plan shards, in the order of the shards; a few are read ahead while one is worked on."""
    waiting: deque[Future[pa.Table]] = deque()
    for shard in shards:
        waiting.append(pool.submit(store.load, PLAN, shard, columns))
        if len(waiting) == _AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def visited(
    files: Sequence[InputFile],
    inputs: InputConfig,
    extra: pa.StructType,
    *,
    seed: int,
    start: int,
    planned: KnownUids,
    forgotten: Tombstones,
    scratch: Path,
) -> Iterator[pa.Table]:
    """All rows of a list in the order of their shuffle keys, a bucket at a time, duplicates marked.

    start: index of the first row, which is the number of rows that the run has already.
    The first of equal rows, by `index`, stays live; those of `planned` come before all.  `forgotten` rows have no URL,
    text or columns of their own, and these never reach `scratch`.
    """
    buckets = min(_MAX_BUCKETS, 1 + sum(f.size for f in files) // _BUCKET_BYTES)
    writers: dict[int, pa.ipc.RecordBatchFileWriter] = {}
    for file in files:
        for batch in read_rows(file, inputs, extra):
            keyed = _with_identity(batch, start, seed, forgotten)
            start += len(keyed)
            # Bucket b holds the b-th slice of the key space, so that bucket order is key order.
            bucket = (keyed["key"].to_numpy() >> np.uint64(32)) * np.uint64(buckets) >> np.uint64(32)
            for b in np.unique(bucket):
                part = keyed.filter(pa.array(bucket == b))
                if b not in writers:
                    writers[b] = pa.ipc.new_file(str(scratch / f"{b}.arrow"), part.schema)
                writers[b].write_table(part)
    for writer in writers.values():
        writer.close()
    for b in sorted(writers):
        spill = scratch / f"{b}.arrow"
        with pa.memory_map(str(spill)) as source:
            yield _marked(pa.ipc.open_file(source).read_all(), planned)
        spill.unlink()


def _with_identity(batch: pa.Table, start: int, seed: int, forgotten: Tombstones) -> pa.Table:
    urls, alts = batch["url"].to_pylist(), batch["alt"].to_pylist()
    uids = [row_uid(u, a) for u, a in zip(urls, alts, strict=True)]
    identity = {
        "key": pa.array([shuffle_key(uid, seed) for uid in uids], pa.uint64()),
        "uid": pa.array(uids, pa.string()),
        "index": pa.array(range(start, start + len(uids)), pa.int64()),
    }
    rows = set_columns(pa.table(identity), {name: batch[name] for name in batch.schema.names})
    rows = set_columns(rows, dict.fromkeys(DROPS, pa.nulls(len(rows), pa.string())))
    mask = forgotten.mask(uids, urls, alts)
    return blanked(rows, pa.array(mask)) if mask.any() else rows


def _marked(bucket: pa.Table, planned: KnownUids) -> pa.Table:
    order = pc.sort_indices(bucket, [("key", "ascending"), ("uid", "ascending"), ("index", "ascending")])
    sorted_rows = bucket.take(order)
    rows = sorted_rows.drop_columns(["key"])
    uid = rows["uid"].combine_chunks()
    again = np.r_[False, np.asarray(pc.equal(uid[1:], uid[:-1]))]
    again |= planned.among(sorted_rows["key"].to_numpy(), rows["uid"])
    return drop(rows, "plan", {"duplicate_input": pa.array(again)}, PLAN_REASONS)


def cut(pieces: Iterable[pa.Table], rows_per_shard: int) -> Iterator[pa.Table]:
    """Tables of exactly `rows_per_shard` rows, the last one shorter."""
    rest: pa.Table | None = None
    for piece in pieces:
        rest = piece if rest is None else pa.concat_tables([rest, piece])
        whole = len(rest) // rows_per_shard * rows_per_shard
        for at in range(0, whole, rows_per_shard):
            yield rest.slice(at, rows_per_shard).combine_chunks()
        rest = rest.slice(whole)
    if rest is not None and len(rest):
        yield rest.combine_chunks()
