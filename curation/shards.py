"""Ray Data in and out: one block is one shard, read from the store and committed to it.

A block carries the row table plus private columns that never reach a file.  Constant within the block: `_shard` (its
number), `_content_<table>` (the table is committed with this content), `_earlier_<table>` (the table is stale, and the
block holds its content), `_seconds_<stage>`, `_worked_<stage>` and `_found_<stage>` (JSON).  One value per row:
`_was_<drop column>`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasink

from curation.input_column import with_input
from curation.reuse import WAS, earlier_columns, earlier_drops, was_there
from curation.schema import count_drops, set_columns, undrop_after
from curation.stage import as_mask
from curation.table import PLAN, Table
from pairmill.config import digest
from pairmill.damage import damaged
from pairmill.errors import IntegrityError
from pairmill.store import MANIFESTS, Entry, Store, shard_file


@dataclass(frozen=True)
class Work:
    """One shard to process.  fresh: the tables that are committed and up to date, with their contents."""

    shard: int
    fresh: Mapping[str, str] = field(default_factory=dict)


def outstanding(
    store: Store,
    tables: Sequence[Table],
    shards: Iterable[int],
    given: Sequence[str] = (),
    committed: Mapping[str, Mapping[int, Entry]] | None = None,
) -> list[Work]:
    """The shards for which one of `tables` (in upstream order) is missing or stale.

    given: tables that are committed already and count as up to date.
    committed: what `listed` returns, if the caller has it; else this costs one listing per table.  Nothing is read.
    Raises DamagedError if a shard of a given table is not committed: its commit was lost.
    """
    if committed is None:
        committed = listed(store, [*given, *(t.name for t in tables)])
    work = []
    for shard in shards:
        fresh = {name: _committed(store, committed, name, shard).content for name in given}
        for table in tables:
            entry = committed[table.name].get(shard)
            if entry is None or any(up not in fresh for up in table.upstream) or entry.key != table.key(fresh):
                continue
            fresh[table.name] = entry.content
        if any(t.name not in fresh for t in tables):
            work.append(Work(shard, fresh))
    return work


def _committed(store: Store, committed: Mapping[str, Mapping[int, Entry]], table: str, shard: int) -> Entry:
    if (entry := committed[table].get(shard)) is None:
        raise damaged(store.path(shard_file(table, shard)), f"it has no commit in {MANIFESTS}/")
    return entry


def listed(store: Store, tables: Iterable[str]) -> dict[str, dict[int, Entry]]:
    """Table -> its committed shards, with one listing each."""
    return {name: store.index(name) for name in tables}


def ahead(work: Sequence[Work], table: Table, later: Sequence[Mapping[int, Entry]]) -> list[Work]:
    """Those outstanding shards where `table` can be made now and a later table exists.

    If `table` turns out unchanged, the later one is up to date, and its shard needs no work.
    later: the committed shards of the tables after it.
    """
    return [
        one
        for one in work
        if table.name not in one.fresh
        and all(up in one.fresh for up in table.upstream)
        and any(one.shard in committed for committed in later)
    ]


def read_shard(
    store: Store,
    work: Work,
    columns: Mapping[str, Sequence[str]],
    input_type: pa.StructType | None = None,
    earlier: Sequence[Table] = (),
) -> pa.Table:
    """The rows of a shard's plan with those `columns` of its fresh tables that a segment needs (table -> columns).

    input_type: the type of `input` over all lists of the run; None: that of this shard.
    earlier: tables whose content is read even if stale, for rows that stay; that of the run's own table where a
    selection's has none yet.
    """
    rows = with_input(store.load(PLAN, work.shard), input_type)
    constants: dict[str, pa.Scalar] = {"_shard": pa.scalar(work.shard, pa.int32())}
    for table, content in work.fresh.items():
        constants[f"_content_{table}"] = pa.scalar(content)
        wanted = list(columns.get(table, ()))
        if not wanted:
            continue
        loaded = store.load(table, work.shard, ["uid", *wanted])
        if not loaded["uid"].equals(rows["uid"]):
            raise damaged(store.path(shard_file(table, work.shard)), "it holds other rows than the plan")
        rows = set_columns(rows, {name: loaded[name] for name in wanted})
    for one in earlier:
        if one.name not in work.fresh and (found := _earlier(store, one, work.shard, rows["uid"])) is not None:
            constants[was_there(one.name)] = pa.scalar(True)
            rows = set_columns(rows, found)
    return set_columns(rows, {name: pa.repeat(value, len(rows)) for name, value in constants.items()})


def _earlier(
    store: Store, table: Table, shard: int, uids: pa.ChunkedArray
) -> dict[str, pa.Array | pa.ChunkedArray] | None:
    """The content of a stale table, or of the run's own in its place, for the same rows; None if there is none.

    A file exists whole or not at all, so it counts even if a killed writer removed its commit.
    """
    columns = earlier_columns(table)
    if not columns:
        return None
    files = [shard_file(name, shard) for name in (table.name, table.own) if name]
    file = next(filter(store.exists, files), None)
    if file is None:
        return None
    there = set(store.schema(file).names)
    wanted = [c.name for c in columns if c.name in there]
    drops = [name for name in earlier_drops(table) if name in there]
    loaded = store.read_table(file, ["uid", *wanted, *drops])
    if not loaded["uid"].equals(uids):
        return None
    found = {c.name: loaded[c.name] if c.name in there else pa.nulls(len(loaded), c.type) for c in columns}
    for stage in table.makers:
        if all(found[c.name].type == c.type for c in stage.adds):
            continue
        if stage.made_from is None:
            return None
        # Of another form, so nothing of it can stay.  That it was made stays known: it is made again with consent only.
        none = {c.name: pa.nulls(len(loaded), c.type) for c in stage.adds}
        still = {name: found[name] if found[name].type == value.type else value for name, value in none.items()}
        made = found[stage.made_from.name]
        finished = pc.and_(pc.is_valid(made), pa.array(~as_mask(stage.unfinished(pa.table(still)))))
        found |= none | {stage.made_from.name: pc.if_else(finished, pa.scalar(0, made.type), None)}
    return found | {WAS[name]: loaded[name] for name in drops}


class ShardSource(Datasource):  # type: ignore[misc]  # Ray ships no types
    """Exactly one block per shard."""

    def __init__(
        self,
        store: Store,
        work: Sequence[Work],
        columns: Mapping[str, Sequence[str]],
        prepare: Callable[[pa.Table], pa.Table] | None = None,
        input_type: pa.StructType | None = None,
        earlier: Sequence[Table] = (),
    ) -> None:
        """columns, input_type, earlier: as for `read_shard`.  prepare: applied to each block where it is read."""
        super().__init__()
        self._store, self._work, self._columns, self._prepare = store, list(work), dict(columns), prepare
        self._input_type, self._earlier = input_type, list(earlier)

    def estimate_inmemory_data_size(self) -> int | None:
        """Unknown before the shards are read."""
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: object = None
    ) -> list[ReadTask]:
        """One task per shard, whatever parallelism is requested."""
        store, columns, prepare = self._store, self._columns, self._prepare
        input_type, earlier = self._input_type, self._earlier

        def task(work: Work) -> ReadTask:
            def read() -> Iterable[pa.Table]:
                rows = read_shard(store, work, columns, input_type, earlier)
                return [prepare(rows) if prepare else rows]

            return ReadTask(read, BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None))

        return [task(work) for work in self._work]


class ShardSink(Datasink):  # type: ignore[misc]  # Ray ships no types
    """Commits each shard's tables, in upstream order, except those that are up to date."""

    def __init__(self, store: Store, tables: Sequence[Table], run: int) -> None:
        """run: number of this invocation, recorded in the manifests."""
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
        raise IntegrityError("a block must hold the rows of exactly one shard")
    prefix = "_content_"
    contents = {
        name.removeprefix(prefix): rows[name][0].as_py() for name in rows.schema.names if name.startswith(prefix)
    }
    done = {}
    for table in tables:
        if table.name in contents:
            continue
        # The rows are ahead of this table: it must not know what later stages dropped.
        known = undrop_after(rows, table.known)
        kept = known.select(["uid", *table.columns])
        facts = {
            "run": run,
            "committed_at": time.time(),
            "stages": count_drops(known, table.stages, table.before),
            "seconds": {stage: _constant(rows, f"_seconds_{stage}", 0.0) for stage in table.stages},
            "worked": {stage: _constant(rows, f"_worked_{stage}", {}) for stage in table.stages},
            "facts": {stage.name: stage.facts(kept) for stage in table.makers},
            "made_by": made_by(table),
        }
        if found := {stage: text for stage in table.stages if (text := _constant(rows, f"_found_{stage}", None))}:
            facts["found"] = {stage: json.loads(text) for stage, text in found.items()}
        done[table.name] = store.commit(table.name, shard, table.key(contents), kept, facts, volatile=table.volatile)
        contents[table.name] = done[table.name].content
    return done


def made_by(table: Table) -> dict[str, str]:
    """Stage -> digest of what decides what it computes: configuration, model, source.  {}: the table is not keyed."""
    identity = table.identity if isinstance(table.identity, list) else []
    return {stage.name: digest(one) for stage, one in zip(table.makers, identity, strict=False)}


def _constant(rows: pa.Table, name: str, default: Any) -> Any:
    return rows[name][0].as_py() if name in rows.schema.names else default
