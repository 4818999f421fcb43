"""Select: what a selection needs to know over all shards, as passes of Ray Data; then write it per shard."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import pyarrow as pa
import ray

from curation.filters.stage import input_columns
from curation.plan_file import Plan
from curation.schema import add_seconds, set_columns
from curation.selections.cuts import Read
from curation.selections.expression import Mask
from curation.selections.late import without_unused
from curation.selections.selected_tables import SelectedTable
from curation.selections.stage import selected
from curation.selections.steps import Found, Rules, ShardRows
from curation.selections.whole_run import find
from curation.shards import Work, read_shard
from pairmill.damage import damaged
from pairmill.faults import fault_point
from pairmill.layout import SELECTIONS
from pairmill.store import Store, shard_file
from pipelines.barrier import PARTITION_ROWS, brought_together, over_shards
from pipelines.stages.compared_runs import RunToCompare
from pipelines.stages.deduplicate import losers_over
from pipelines.stages.reporting import Reporter

_KEPT = ("keep", "reason")


class RayPasses:
    """`curation.selections.cuts.Passes` over the shards of a run."""

    def __init__(self, shards: Sequence[int], rows: int) -> None:
        """rows: of all shards."""
        self._shards, self._partitions = list(shards), 1 + rows // PARTITION_ROWS

    def collected(self, read: Read, apply: Callable[[pa.Table], pa.Table], schema: pa.Schema) -> pa.Table:
        """See `Passes`."""
        rows = over_shards(self._shards, _Pass(read), name="select").materialize().to_arrow_refs()
        return ray.get(_applied.remote(apply, schema, *rows))

    def shuffled(self, read: Read, apply: Callable[[pa.Table], pa.Table], schema: pa.Schema) -> pa.Table:
        """See `Passes`."""
        rows = over_shards(self._shards, _Pass(read), name="select")
        found = [
            ray.get(one) for one in brought_together(rows, self._partitions, lambda part: _applied_to(apply, part))
        ]
        return _together(schema, found)


class _Pass:
    """What reads a shard, in a worker."""

    def __init__(self, read: Read) -> None:
        self._read = read

    def __call__(self, shard: int) -> pa.Table:
        fault_point("barrier.pass")
        return self._read(shard)


def _applied_to(apply: Callable[[pa.Table], pa.Table], part: pa.Table) -> pa.Table:
    fault_point("barrier.cuts")
    return apply(part.drop_columns(["key"]))


@ray.remote(num_cpus=1)  # type: ignore[untyped-decorator]
def _applied(apply: Callable[[pa.Table], pa.Table], schema: pa.Schema, *rows: pa.Table) -> pa.Table:
    fault_point("barrier.cuts")
    return apply(_together(schema, rows))


def _together(schema: pa.Schema, found: Sequence[pa.Table]) -> pa.Table:
    # Where there are no rows at all, Ray Data's block has no columns either.
    return pa.concat_tables([schema.empty_table(), *(one.select(schema.names) for one in found if one.num_columns)])


class SelectionOver:
    """A selection over a whole run: finds what it needs to know once, when it is first asked for its stage."""

    def __init__(
        self,
        store: Store,
        made: SelectedTable,
        rules: Rules,
        planned: Plan,
        input_type: pa.StructType | None,
        others: Sequence[RunToCompare] = (),
    ) -> None:
        """others: runs whose rows take part in looking for duplicates."""
        self._store, self._made, self._rules = store, made, rules
        self._planned, self._input_type, self._others = planned, input_type, others

    def stage(self, board: Any) -> SelectionStage:
        """What records for each row of a shard whether it stays.  board: of the job; None: it is not shown."""
        return SelectionStage(self._store, self._made, self._found, board)

    @cached_property
    def _found(self) -> Any:
        """A reference to what was found over all shards."""
        fault_point("barrier.selections")
        store, made, rules, input_type = self._store, self._made, self._rules, self._input_type
        shards, rows, others = self._planned.shard_numbers(), self._planned.rows, self._others

        def load(shard: int) -> ShardRows:
            given = read_shard(store, Work(shard, dict.fromkeys(made.reads, "")), made.reads, input_type)
            return shard_rows(store, made, shard, given)

        def losers(among: Callable[[int], Mask]) -> Callable[[int], pa.Table]:
            families = losers_over(
                *(store, shards, rows, made.reads, rules.config.duplicates),
                taking_part=lambda shard: pa.array(among(shard)),
                prepare=lambda shard, given: without_unused(store, made.later, shard, given),
                others=others,
            )
            return families.of

        return ray.put(find(rules, RayPasses(shards, rows), load, losers, rows=rows))


def shard_rows(
    store: Store, made: SelectedTable, shard: int, rows: pa.Table, taken_over: Mapping[str, str] | None = None
) -> ShardRows:
    """The rows of a shard as rules take them.

    rows: of the plan, with the columns that the rules read.  taken_over: further columns -> the base that has them.
    Raises DamagedError for a base that holds other rows than the plan.
    """
    bases = {}
    for name in made.stage.rules.bases:
        table = f"{SELECTIONS}/{name}"
        more = [column for column, base in (taken_over or {}).items() if base == name]
        loaded = store.load(table, shard, ["uid", *_KEPT, *more])
        if not loaded["uid"].equals(rows["uid"]):
            raise damaged(store.path(shard_file(table, shard)), "it holds other rows than the plan")
        bases[name] = loaded
    rows = without_unused(store, made.later, shard, rows)
    return ShardRows(shard, set_columns(rows, input_columns(rows)), bases)


class SelectionStage:
    """Record for each row of a shard whether it stays."""

    def __init__(self, store: Store, made: SelectedTable, found: Any, board: Any) -> None:
        """found: a reference to what was found over all shards."""
        self._store, self._made, self._stage, self._found = store, made, made.stage, found
        self._reporter = None if board is None else Reporter(board, [made.stage], made.table.before)

    def __call__(self, rows: pa.Table) -> pa.Table:
        fault_point("select.shard")
        began = time.perf_counter() if self._reporter is None else self._reporter.begin()
        found: Found = ray.get(self._found)
        given = shard_rows(self._store, self._made, rows["_shard"][0].as_py(), rows, self._stage.taken_over)
        rows = selected(self._stage, rows, given, found)
        rows = add_seconds(rows, self._stage.name, time.perf_counter() - began)
        return rows if self._reporter is None else self._reporter.end(rows)
