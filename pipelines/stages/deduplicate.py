"""Deduplicate: bring together what the kinds compare, so that duplicates meet; then write a selection per shard."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from curation.duplicates.deduplicate import found_edges, met_rows, scores, survivors
from curation.duplicates.edges import EDGES
from curation.duplicates.kinds import DeduplicateConfig, Kind, kinds_of
from curation.duplicates.stage import Deduplicate
from curation.filters.stage import input_columns
from curation.schema import DROPS, add_seconds, live, set_columns
from curation.selection import apply_selection, selection_rows
from curation.shards import Work, read_shard
from pairmill.store import Store
from pipelines.barrier import PARTITION_ROWS, brought_together, over_shards
from pipelines.stages.reporting import Reporter


class Families:
    """The rows of a run that better duplicates replace; what a process holds of them is a reference."""

    def __init__(self, losers: Any) -> None:
        """losers: a reference to the table of `survivors`."""
        self._losers = losers

    def of(self, shard: int) -> pa.Table:
        """The rows of a shard that go, in order: row, reason.  For workers."""
        losers = ray.get(self._losers)
        first, last = np.searchsorted(losers["shard"].to_numpy(), [shard, shard + 1])
        return losers.slice(first, last - first)


def losers_over(
    store: Store,
    shards: Sequence[int],
    rows: int,
    reads: Mapping[str, Sequence[str]],
    config: DeduplicateConfig,
    *,
    taking_part: Callable[[int], pa.Array] | None = None,
) -> Families:
    """The families of duplicates: their edges stay in the object store, away from the driver.

    rows: their number in all shards.  reads: table -> columns that the kinds and the score need.
    taking_part: mask of the rows of a shard that are compared; a dropped row never is.  None: all.
    """
    # A worker lacks what was registered only on the driver, so it gets the kinds themselves.
    kinds = kinds_of(config)
    edges: list[Any] = [ray.put(EDGES.empty_table())]
    if kinds:
        partitions = (1 + rows // PARTITION_ROWS) * sum(kind.keys_per_row for kind in kinds)

        def read(shard: int) -> pa.Table:
            return met_rows(_live_rows(store, shard, reads, config, taking_part), kinds=kinds)

        met = over_shards(shards, read, name="edges")
        edges += brought_together(met, partitions, lambda part: found_edges(part, kinds=kinds))
    return Families(_losers_of.remote(kinds, *edges))


def _live_rows(
    store: Store,
    shard: int,
    reads: Mapping[str, Sequence[str]],
    config: DeduplicateConfig,
    taking_part: Callable[[int], pa.Array] | None,
) -> pa.Table:
    rows = read_shard(store, Work(shard, dict.fromkeys(reads, "")), reads)
    rows = set_columns(rows, {"shard": rows["_shard"], "row": pa.array(range(len(rows)), pa.int32())})
    mask = live(rows)
    rows = rows.filter(mask if taking_part is None else pc.and_(mask, taking_part(shard)))
    return set_columns(rows, {**input_columns(rows), "score": scores(rows, config.score)})


@ray.remote(num_cpus=1)  # type: ignore[untyped-decorator]
def _losers_of(kinds: Sequence[Kind], *edges: pa.Table) -> pa.Table:
    """All rows that a better duplicate replaces, of the edges of every partition."""
    # Where a partition has no rows at all, Ray Data's block has no columns either.
    return survivors(pa.concat_tables([found for found in edges if found.num_columns]), kinds=kinds)


class SelectStage:
    """Record for each row of a shard whether it stays."""

    def __init__(self, families: Families, stage: Deduplicate, before: Sequence[str], board: Any) -> None:
        self._families, self._stage, self._reporter = families, stage, Reporter(board, [stage], before)

    def __call__(self, rows: pa.Table) -> pa.Table:
        began = self._reporter.begin()
        chosen = selection_rows(rows, self._families.of(rows["_shard"][0].as_py()))
        rows = set_columns(rows, {"keep": chosen["keep"], "reason": chosen["reason"]})
        dropped = apply_selection(rows, self._stage.name, self._stage.drops)
        rows = set_columns(rows, {name: dropped[name] for name in DROPS})
        return self._reporter.end(add_seconds(rows, self._stage.name, time.perf_counter() - began))
