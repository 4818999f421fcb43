"""Deduplicate: bring together what the kinds compare, so that duplicates meet; then write a selection per shard."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from curation.duplicates.components import home_of_shards
from curation.duplicates.deduplicate import found_edges, met_rows, scores
from curation.duplicates.families import MEMBERS, PARTITION_EDGES, families
from curation.duplicates.fitting import fitted, sample_of, smallest
from curation.duplicates.kinds import ROW_BYTES, DeduplicateConfig, Kind, kinds_of
from curation.duplicates.stage import Deduplicate
from curation.filters.stage import input_columns
from curation.schema import DROPS, add_seconds, live, set_columns
from curation.selection import apply_selection, selection_rows
from curation.shards import Work, read_shard
from pairmill.faults import fault_point
from pairmill.store import Store
from pipelines.barrier import PARTITION_ROWS, RayTasks, brought_together, over_shards
from pipelines.stages.compared_runs import RunToCompare
from pipelines.stages.reporting import Reporter

#: Samples that are merged at once.
_MERGED = 4


class Families:
    """The rows of a run that have duplicates, by shard; what a process holds of them are references."""

    def __init__(self, partitions: Sequence[Any]) -> None:
        """partitions: references to the tables of `families`; none: no row has duplicates."""
        self._partitions = list(partitions)

    def of(self, shard: int) -> pa.Table:
        """The rows of a shard that have duplicates, in order; schema `MEMBERS`.  For workers."""
        if not self._partitions:
            return MEMBERS.empty_table()
        at = home_of_shards(np.array([shard]), len(self._partitions))[0]
        members = ray.get(self._partitions[at])
        first, last = np.searchsorted(members["shard"].to_numpy(), [shard, shard + 1])
        return members.slice(first, last - first)


def losers_over(
    store: Store,
    shards: Sequence[int],
    rows: int,
    reads: Mapping[str, Sequence[str]],
    config: DeduplicateConfig,
    *,
    taking_part: Callable[[int], pa.Array] | None = None,
    prepare: Callable[[int, pa.Table], pa.Table] = lambda shard, rows: rows,
    others: Sequence[RunToCompare] = (),
) -> Families:
    """The families of duplicates: their edges and rows stay in the object store, away from the driver.

    rows: their number in all shards.  reads: table -> columns that the kinds and the score need.
    taking_part: mask of the rows of a shard that are compared; a dropped row never is.  None: all.
    prepare: applied to the rows of a shard as they are read.
    others: runs whose rows take part too, and are better than any of this one.
    """
    # A worker lacks what was registered only on the driver, so it gets the kinds themselves.
    kinds = kinds_of(config.resolved([name for names in reads.values() for name in names]))
    if not kinds:
        return Families([])
    tasks = RayTasks()

    def read(shard: int) -> pa.Table:
        rows = prepare(shard, read_shard(store, Work(shard, dict.fromkeys(reads, "")), reads))
        return _live_rows(rows, shard, config, taking_part)

    compared = rows + sum(other.rows for other in others)
    # The sample is of this run alone, so that what is learnt does not depend on what others hold, but for their sizes.
    kinds = tuple(
        _fitted(kind, shards, read, rows, compared, tasks) if kind.sample_rows(compared) else kind for kind in kinds
    )
    # The shards of other runs are numbered after its own.
    first = 1 + max(shards, default=-1)
    elsewhere = [(other, shard) for other in others for shard in other.shards]
    partitions = (1 + compared // PARTITION_ROWS) * sum(
        kind.keys_per_row * max(1, -(-kind.row_bytes // ROW_BYTES)) for kind in kinds
    )
    # What kinds have learnt may be large: each worker fetches it once.
    shared = ray.put(kinds)

    def met(shard: int) -> pa.Table:
        fault_point("barrier.edges")
        if shard < first:
            return met_rows(read(shard), kinds=ray.get(shared))
        other, at = elsewhere[shard - first]
        return met_rows(other.rows_of(at, as_shard=shard), kinds=ray.get(shared))

    edges = brought_together(
        over_shards([*shards, *range(first, first + len(elsewhere))], met, name="edges"),
        partitions,
        lambda part: found_edges(part, kinds=ray.get(shared)),
    )
    found = sum(tasks.values([tasks.call(_rows, one, returns=1)[0] for one in edges]))
    return Families(families(edges, kinds, 1 + found // PARTITION_EDGES, tasks))


def _fitted(
    kind: Kind, shards: Sequence[int], read: Callable[[int], pa.Table], rows: int, compared: int, tasks: RayTasks
) -> Kind:
    """The kind with what it learns from a sample of the run, which meets in one task.

    rows: of the run.  compared: with those of other runs.
    """

    def sample(shard: int) -> pa.Table:
        fault_point("barrier.sample")
        return sample_of(read(shard), kind, rows, compared)

    found = over_shards(shards, sample, name=f"sample for {kind.name}").materialize().to_arrow_refs()
    while len(found) > 1:
        groups = [found[at : at + _MERGED] for at in range(0, len(found), _MERGED)]
        found = [tasks.call(_smallest, kind, compared, *group, returns=1)[0] for group in groups]
    learnt: Kind = tasks.values([tasks.call(_fit, kind, compared, *found, returns=1)[0]])[0]
    return learnt


def _smallest(kind: Kind, rows: int, *samples: pa.Table) -> list[pa.Table]:
    return [smallest(samples, kind, rows)]


def _fit(kind: Kind, rows: int, *samples: pa.Table) -> list[Kind]:
    fault_point("barrier.fit")
    return [fitted(kind, smallest(samples, kind, rows), rows)]


def _rows(table: pa.Table) -> list[int]:
    return [len(table)]


def _live_rows(
    rows: pa.Table, shard: int, config: DeduplicateConfig, taking_part: Callable[[int], pa.Array] | None
) -> pa.Table:
    rows = set_columns(rows, {"shard": rows["_shard"], "row": pa.array(range(len(rows)), pa.int32())})
    mask = live(rows)
    rows = rows.filter(mask if taking_part is None else pc.and_(mask, taking_part(shard)))
    return set_columns(rows, {**input_columns(rows), "score": scores(rows, config.score)})


class SelectStage:
    """Record for each row of a shard whether it stays."""

    def __init__(self, families: Families, stage: Deduplicate, before: Sequence[str], board: Any) -> None:
        self._families, self._stage, self._reporter = families, stage, Reporter(board, [stage], before)

    def __call__(self, rows: pa.Table) -> pa.Table:
        began = self._reporter.begin()
        fault_point("barrier.select")
        keep = "all" if self._stage.keeps_all else "best"
        chosen = selection_rows(rows, self._families.of(rows["_shard"][0].as_py()), keep=keep)
        rows = set_columns(rows, {name: chosen[name] for name in self._stage.column_names()})
        dropped = apply_selection(rows, self._stage.name, self._stage.drops)
        rows = set_columns(rows, {name: dropped[name] for name in DROPS})
        return self._reporter.end(add_seconds(rows, self._stage.name, time.perf_counter() - began))
