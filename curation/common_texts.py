"""Which rows share their alt text with many rows of the list: a global count, as a narrow column for the filter.

reads: alt, drop_reason (plan, all shards)
adds:  text_is_common (bool; null in rows that the plan dropped), as columns/common_texts-<most>/shard-*

The count is made on disk: digests of the texts are dealt into buckets, the places of too common ones are dealt back to
the shards, and a shard is written only if its column changes.  So an extension filters again exactly the shards for
which the rule's outcome changed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curation.plan_file import Plan
from curation.visiting import read_ahead
from pairmill.checked_json import read_checked, write_checked
from pairmill.damage import DamagedError
from pairmill.folding import text_digest
from pairmill.store import Store, shard_key
from pairmill.table_files import content_digest

logger = logging.getLogger("pairmill")

#: The column: whether more rows of the whole list have a row's alt text than the rule allows.
COMMON_TEXT = "text_is_common"

_READERS = 8
#: Rows of a bucket, at 16 bytes each; and the largest number of bucket files.
_BUCKET_ROWS = 4 * 2**20
_MAX_BUCKETS = 256
#: Rows gathered before they are dealt: a shard has few for each bucket, and every write has a cost.
_GATHERED_ROWS = 2**17

#: A place is `shard << 32 | row`.
Numbers = npt.NDArray[np.uint64]
_SHIFT = np.uint64(32)


def common_texts_table(most: int) -> str:
    """The table that says which texts more than `most` rows share."""
    return f"columns/common_texts-{most}"


def mark_file(table: str) -> str:
    """The mark of a finished table: for which plan it was made."""
    return f"{table}/plan.json"


def read_mark(store: Store, name: str) -> dict[str, Any] | None:
    """What a mark says; None if there is none of this name.  Raises DamagedError."""
    return read_checked(store, name, "mark of a table")


def mark_common_texts(store: Store, plan: Plan, most: int) -> None:
    """Bring the table up to date with the plan; costs one small read and a listing if it already is."""
    table = common_texts_table(most)
    done = mark_file(table)
    if _done(store, done) == {"fingerprint": plan.fingerprint} and len(store.index(table)) == plan.shards:
        return
    with store.scratch("texts") as scratch, ThreadPoolExecutor(_READERS) as pool:
        buckets = min(_MAX_BUCKETS, 1 + plan.rows // _BUCKET_ROWS)
        texts = _Spill(scratch, "texts", buckets)
        for rows in _gathered(store, plan, pool):
            texts.deal(rows[:, 0] % np.uint64(buckets), rows)
        each = -(-plan.shards // buckets)  # shards of a bucket
        shards = _Spill(scratch, "shards", buckets)
        for places in _common(texts, most):
            shards.deal((places >> _SHIFT) // np.uint64(each), places)
        committed = store.index(table)
        for bucket in range(buckets):
            numbers = range(bucket * each, min((bucket + 1) * each, plan.shards))
            places = np.sort(shards.read(bucket))
            planned = read_ahead(pool, store, numbers, ["uid", "drop_reason"])
            for shard, rows_of_shard in zip(numbers, planned, strict=True):
                marked = _marked(rows_of_shard, shard, places)
                if shard not in committed or committed[shard].content != content_digest(marked):
                    store.commit(table, shard, shard_key(["common_texts", most], []), marked, {})
        store.sweep(table)
    write_checked(store, done, {"fingerprint": plan.fingerprint}, "common_texts.commit")


def _done(store: Store, name: str) -> dict[str, Any] | None:
    """What the mark of a finished table says; nothing if it is damaged, so that the table is made again."""
    try:
        return read_mark(store, name)
    except DamagedError as error:
        logger.warning("%s is damaged (%s) and is written again", name, error.why)
        return None


def _gathered(store: Store, plan: Plan, pool: Executor) -> Iterator[Numbers]:
    """Digest of the text, and place, of every live row: shape (rows, 2)."""
    held: list[Numbers] = []
    tables = read_ahead(pool, store, plan.shard_numbers(), ["alt", "drop_reason"])
    for shard, rows in zip(plan.shard_numbers(), tables, strict=True):
        lives = np.flatnonzero(np.asarray(pc.is_null(rows["drop_reason"])))
        alts = rows["alt"].take(pa.array(lives)).to_pylist()
        digests = np.frombuffer(b"".join(map(text_digest, alts)), "<u8")
        held.append(np.column_stack([digests, np.uint64(shard << 32) | lives.astype(np.uint64)]))
        if sum(map(len, held)) >= _GATHERED_ROWS:
            yield np.concatenate(held)
            held = []
    if held:
        yield np.concatenate(held)


def _common(texts: _Spill, most: int) -> Iterator[Numbers]:
    """The places of the rows whose text more than `most` rows have."""
    for bucket in range(texts.buckets):
        rows = texts.read(bucket).reshape(-1, 2)
        _, text, times = np.unique(rows[:, 0], return_inverse=True, return_counts=True)
        yield rows[times[text] > most, 1]


def _marked(planned: pa.Table, shard: int, places: Numbers) -> pa.Table:
    low, high = np.searchsorted(places, np.array([shard << 32, (shard + 1) << 32], dtype=np.uint64))
    common = np.zeros(len(planned), dtype=bool)
    common[(places[low:high] & np.uint64(0xFFFFFFFF)).astype(np.int64)] = True
    lives = pc.is_null(planned["drop_reason"])
    marks = pc.if_else(lives, pa.array(common), pa.scalar(None, pa.bool_()))
    return pa.table({"uid": planned["uid"], COMMON_TEXT: marks})


class _Spill:
    """Numbers in files, one per bucket."""

    def __init__(self, folder: Path, name: str, buckets: int) -> None:
        self._folder, self._name, self.buckets = folder, name, buckets

    def deal(self, buckets: Numbers, values: Numbers) -> None:
        """Append each of `values` (or row of them) to the file of its bucket."""
        order = np.argsort(buckets, kind="stable")
        bounds = np.searchsorted(buckets[order], np.arange(self.buckets + 1, dtype=np.uint64))
        for bucket, part in enumerate(np.split(values[order], bounds[1:-1])):
            if len(part):
                with self._file(bucket).open("ab") as spill:
                    part.tofile(spill)

    def read(self, bucket: int) -> Numbers:
        """What was appended to a bucket, flat."""
        file = self._file(bucket)
        return np.fromfile(file, dtype=np.uint64) if file.exists() else np.empty(0, np.uint64)

    def _file(self, bucket: int) -> Path:
        return self._folder / f"{self._name}-{bucket}"
