"""Ray Data in and out: one block is one shard, read from the store and committed to it.

A block carries the row table plus three kinds of private columns, constant within the block, that never reach a file:
`_shard` (its number), `_content_<table>` (the table was already committed, with this content) and `_seconds_<stage>`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasink

from curation.input_column import with_input
from curation.schema import count_drops, set_columns, undrop_after
from curation.table import Table
from pairmill.errors import IntegrityError
from pairmill.store import Entry, Store, shard_file


@dataclass(frozen=True)
class Work:
    """One shard to process: `fresh` says which tables are committed as they should be, with their contents."""

    shard: int
    fresh: Mapping[str, str] = field(default_factory=dict)


def outstanding(store: Store, tables: Sequence[Table], shards: Iterable[int], given: Sequence[str] = ()) -> list[Work]:
    """The shards for which some of `tables` (in upstream order) is not committed as it should be.

    given: tables that are committed already, whatever they hold, and only need to be known.
    Costs one listing a table; nothing is read.
    """
    committed = {name: store.index(name) for name in [*given, *(t.name for t in tables)]}
    work = []
    for shard in shards:
        fresh = {name: committed[name][shard].content for name in given}
        for table in tables:
            entry = committed[table.name].get(shard)
            if entry is None or any(up not in fresh for up in table.upstream) or entry.key != table.key(fresh):
                continue
            fresh[table.name] = entry.content
        if any(t.name not in fresh for t in tables):
            work.append(Work(shard, fresh))
    return work


def read_shard(
    store: Store, work: Work, columns: Mapping[str, Sequence[str]], input_type: pa.StructType | None = None
) -> pa.Table:
    """The rows of a shard's plan with those `columns` of its fresh tables that a segment needs (table -> columns).

    input_type: the type of `input` over all lists of the run; None: as this shard has it.
    """
    rows = with_input(store.read_table(shard_file("plan", work.shard)), input_type)
    constants: dict[str, pa.Scalar] = {"_shard": pa.scalar(work.shard, pa.int32())}
    for table, content in work.fresh.items():
        constants[f"_content_{table}"] = pa.scalar(content)
        wanted = list(columns.get(table, ()))
        if not wanted:
            continue
        loaded = store.load(table, work.shard, ["uid", *wanted])
        if not loaded["uid"].equals(rows["uid"]):
            raise IntegrityError(f"{table} shard {work.shard}: its rows are not those of the plan")
        rows = set_columns(rows, {name: loaded[name] for name in wanted})
    return set_columns(rows, {name: pa.repeat(value, len(rows)) for name, value in constants.items()})


class ShardSource(Datasource):  # type: ignore[misc]  # Ray ships no types
    """Exactly one block a shard."""

    def __init__(
        self,
        store: Store,
        work: Sequence[Work],
        columns: Mapping[str, Sequence[str]],
        prepare: Callable[[pa.Table], pa.Table] | None = None,
        input_type: pa.StructType | None = None,
    ) -> None:
        """columns: what to load of each fresh table.  prepare: applied to each block where it is read.

        input_type: as of `read_shard`.
        """
        super().__init__()
        self._store, self._work, self._columns, self._prepare = store, list(work), dict(columns), prepare
        self._input_type = input_type

    def estimate_inmemory_data_size(self) -> int | None:
        """Unknown before the shards are read."""
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: object = None
    ) -> list[ReadTask]:
        """One task a shard, whatever parallelism is asked for."""
        store, columns, prepare, input_type = self._store, self._columns, self._prepare, self._input_type

        def task(work: Work) -> ReadTask:
            def read() -> Iterable[pa.Table]:
                rows = read_shard(store, work, columns, input_type)
                return [prepare(rows) if prepare else rows]

            return ReadTask(read, BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None))

        return [task(work) for work in self._work]


class ShardSink(Datasink):  # type: ignore[misc]  # Ray ships no types
    """Commits each shard's tables, in upstream order, leaving alone what is already committed as it should be."""

    def __init__(self, store: Store, tables: Sequence[Table], run: int) -> None:
        """run: number of this invocation, noted in the manifests."""
        self._store, self._tables, self._run = store, list(tables), run

    def write(self, blocks: Iterable[pa.Table], ctx: object) -> None:
        """Commit the shard that each block is."""
        for rows in blocks:
            if len(rows):
                commit_shard(self._store, self._tables, rows, self._run)


def commit_shard(store: Store, tables: Sequence[Table], rows: pa.Table, run: int) -> dict[str, Entry]:
    """Commit one shard's rows as each of `tables`; returns what was committed."""
    shard = rows["_shard"][0].as_py()
    if pc.count_distinct(rows["_shard"]).as_py() != 1:
        raise IntegrityError("a block must be one shard, and nothing else")
    prefix = "_content_"
    contents = {
        name.removeprefix(prefix): rows[name][0].as_py() for name in rows.schema.names if name.startswith(prefix)
    }
    done = {}
    for table in tables:
        if table.name in contents:
            continue
        # The rows have come further than this table: what later stages dropped, it does not know.
        known = undrop_after(rows, table.known)
        facts = {
            "run": run,
            "committed_at": time.time(),
            "stages": count_drops(known, table.stages, table.before),
            "seconds": {stage: _seconds(rows, stage) for stage in table.stages},
        }
        kept = known.select(["uid", *table.columns])
        done[table.name] = store.commit(table.name, shard, table.key(contents), kept, facts, volatile=table.volatile)
        contents[table.name] = done[table.name].content
    return done


def _seconds(rows: pa.Table, stage: str) -> float:
    name = f"_seconds_{stage}"
    return float(rows[name][0].as_py()) if name in rows.schema.names else 0.0
