"""Deduplicate: the narrow rows of all shards, partitioned so that duplicates meet, and then a selection a shard."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from curation.duplicates.deduplicate import PIXELS, DeduplicateConfig, survivors
from curation.duplicates.edges import ROWS
from curation.duplicates.near import bands
from curation.duplicates.stage import Deduplicate
from curation.schema import DROPS, add_seconds, live, set_columns
from curation.selection import apply_selection, selection_rows
from curation.shards import Work, read_shard
from pairmill.folding import text_digest
from pairmill.store import Store
from pipelines.stages.told import Told


class NarrowRows:
    """Read what deduplication needs of some shards: schema `ROWS`, live rows only."""

    def __init__(self, store: Store, reads: Mapping[str, Sequence[str]], config: DeduplicateConfig) -> None:
        self._store, self._reads, self._config = store, reads, config

    def __call__(self, shards: pa.Table) -> pa.Table:
        narrow = [self._narrow(shard) for shard in shards["shard"].to_pylist()]
        return pa.concat_tables(narrow)

    def _narrow(self, shard: int) -> pa.Table:
        rows = read_shard(self._store, Work(shard, dict.fromkeys(self._reads, "")), self._reads)
        rows = set_columns(rows, {"row": pa.array(range(len(rows)), pa.int32())})
        rows = rows.filter(live(rows))
        digests = [int.from_bytes(text_digest(c), "little", signed=True) for c in rows["caption"].to_pylist()]
        columns = {
            "shard": rows["_shard"],
            "caption_digest": pa.array(digests, pa.int64()),
            "score": _score(rows, self._config.score),
        }
        return set_columns(rows, columns).select(ROWS.names).cast(ROWS)


def _score(rows: pa.Table, name: str) -> pa.ChunkedArray:
    if name == PIXELS:
        return pc.multiply(rows["original_width"].cast(pa.float64()), rows["original_height"].cast(pa.float64()))
    return rows[name].cast(pa.float64())


class ByImage:
    """Partition narrow rows so that equal images meet."""

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions

    def __call__(self, rows: pa.Table) -> pa.Table:
        part = [int(sha[:8], 16) % self._partitions for sha in rows["sha256"].to_pylist()]
        return set_columns(rows, {"partition": pa.array(part, pa.int32())})


class ByBand:
    """Partition banded rows so that hashes which may be near meet."""

    def __init__(self, partitions: int, config: DeduplicateConfig) -> None:
        self._partitions, self._config = partitions, config

    def __call__(self, rows: pa.Table) -> pa.Table:
        banded = bands(rows, max_distance=self._config.max_distance, min_bits=self._config.min_bits)
        part = banded["band_key"].to_numpy() % self._partitions
        return set_columns(banded, {"partition": pa.array(part.astype(np.int32))})


@ray.remote(num_cpus=1)  # type: ignore[untyped-decorator]
def losers_of(*edges: pa.Table) -> pa.Table:
    """All rows that a better duplicate replaces, of the edges of every partition."""
    # Where a partition has no rows at all, Ray Data's block has no columns either.
    return survivors(pa.concat_tables([found for found in edges if found.num_columns]))


class SelectStage:
    """Write down, for each row of a shard, whether it stays."""

    def __init__(self, losers: Any, stage: Deduplicate, before: Sequence[str], board: Any) -> None:
        self._losers, self._stage, self._told = losers, stage, Told(board, [stage], before)

    def __call__(self, rows: pa.Table) -> pa.Table:
        began = self._told.begin()
        losers = ray.get(self._losers)
        shards = losers["shard"].to_numpy()
        shard = rows["_shard"][0].as_py()
        first, last = np.searchsorted(shards, [shard, shard + 1])
        chosen = selection_rows(rows, losers.slice(first, last - first))
        rows = set_columns(rows, {"keep": chosen["keep"], "reason": chosen["reason"]})
        dropped = apply_selection(rows, self._stage.name, self._stage.drops)
        rows = set_columns(rows, {name: dropped[name] for name in DROPS})
        return self._told.end(add_seconds(rows, self._stage.name, time.perf_counter() - began))
