"""A streaming stage as Ray Data calls it: a whole shard in, the same shard out."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray

from curation.code import own_entries
from curation.download import Download
from curation.flow import Tables
from curation.own_stage import FAILED
from curation.reuse import restored, to_be_made, was_there, with_made_from, work_again
from curation.schema import DROPS, add_seconds, add_worked, set_columns
from curation.stage import Runtime, Stage, StageConfig
from curation.table import Table
from pairmill.errors import IntegrityError
from pairmill.own_code import Guard
from pairmill.store import Store
from pairmill.table_files import content_digest
from pipelines.stages.reporting import Reporter


@dataclass(frozen=True)
class Setting:
    """What a job gives to the workers of its stages.

    gate: the actor through which fetching actors share the limits of a host; None if there is none.
    threads, job: as for `Runtime`; of Ray's jobs, the first ones of all clusters have one name.
    """

    store: Store
    board: Any
    tables: Tables
    decoders: int = 1
    gate: Any = None
    threads: int | None = None
    job: str = field(default_factory=lambda: uuid.uuid4().hex)

    def runtime(self, meter: Any, topic: str) -> Runtime:
        """The argument of a stage's `setup`."""
        gate, board = self.gate, self.board

        # A worker that is started again has the id it had; its fetcher is another, which died with its process.
        owner = "" if gate is None else ray.get_runtime_context().get_actor_id() or ""

        async def exchange(*args: Any) -> Any:
            return await gate.exchange.remote(*args, owner)

        def warn(text: str) -> None:
            board.warn.remote(topic, text)

        asked = None if gate is None else exchange
        return Runtime(self.store, meter, self.decoders, asked, warn, self.threads, self.job)

    @property
    def images(self) -> Table:
        """The table of pictures."""
        return self.tables.named(self.tables.name_of(self.tables.flow.of(Download)))


class RowStage:
    """Runs one stage, and those within it, on whole shards; sets it up in the worker, at the first shard.

    A shard whose table is committed is passed on.  Of a shard whose table is stale, an expensive stage works only on
    the rows whose result would change.
    """

    def __init__(self, stage: Stage, setting: Setting) -> None:
        self._stage, self._setting = stage, setting
        self._table = setting.tables.name_of(stage)
        self._reporter = Reporter(setting.board, (stage, *stage.inner), setting.tables.flow.before(stage.name))
        self._ready = False

    def __call__(self, rows: pa.Table) -> pa.Table:
        if f"_content_{self._table}" in rows.schema.names:
            return rows
        self._set_up()
        began = self._reporter.begin()
        if was_there(self._table) in rows.schema.names:
            rows = restored(self._stage, rows)
            return self._again(rows, to_be_made(self._stage, rows, self._made_by), began)
        done = self._work(rows)
        return self._end(done, done, began)

    @property
    def _made_by(self) -> str:
        return self._setting.tables.made_by.get(self._stage.name, "")

    def _set_up(self) -> None:
        if not self._ready:
            self._stage.setup(self._setting.runtime(self._reporter.meter, self._stage.name))
            self._ready = True

    def _work(self, rows: pa.Table) -> pa.Table:
        own = of_the_list(self._stage, rows)
        given = set_columns(rows, own)
        with self._reporter.own_code(own_name(self._stage)):
            done = called(self._stage, given)
        return without_dropped(self._stage, done.drop_columns(list(own)))

    def _again(self, rows: pa.Table, again: pa.Array, began: float) -> pa.Table:
        done, worked = work_again(self._stage, rows, again, self._made_by, self._work)
        return self._end(done, worked, began)

    def _end(self, done: pa.Table, worked: pa.Table, began: float) -> pa.Table:
        """The shard as it is passed on.  worked: the rows that were worked on."""
        if f"_seconds_{self._stage.name}" not in done.schema.names:
            done = add_seconds(done, self._stage.name, time.perf_counter() - began)
        if self._stage.expensive:
            done = add_worked(with_made_from(self._stage, done, self._made_by), self._reporter.counts(worked))
        return self._reporter.end(done, worked)


class ActorStage(RowStage):
    """`RowStage` in an actor, which sets the stage up before its first shard."""

    def __init__(self, stage: Stage, setting: Setting) -> None:
        super().__init__(stage, setting)
        self._set_up()


def named(stage: Stage, kind: type[RowStage]) -> type[RowStage]:
    """`kind` under the stage's name, which Ray's dashboard shows as the operator's."""
    words = stage.name.replace("-", "_").split("_")
    return type("".join(word.capitalize() for word in words) + "Stage", (kind,), {})


def called(stage: Stage, rows: pa.Table) -> pa.Table:
    """The rows as the stage returns them, checked.  One that is not ours has a time limit, and errors name the row."""
    if not isinstance(stage.config, StageConfig):
        return checked(stage, rows, stage(rows))
    config = stage.config
    guard = Guard(own_name(stage), config.timeout_s, f"on_error of {config.name}", drop=config.on_error == "drop")
    return pa.concat_tables(
        without_result(stage, one.rows) if one.value is None else one.value
        for one in guard.answers(lambda some: checked(stage, some, stage(some)), rows)
    )


def own_name(stage: Stage) -> str:
    """The code of a user's own that a stage calls, in words; '' if it calls none."""
    if isinstance(stage.config, StageConfig):
        return f"stage {stage.name} ({stage.config.name})"
    return ", ".join([*stage.own_code(), *own_entries(stage.config)])


def checked(stage: Stage, given: pa.Table, made: pa.Table) -> pa.Table:
    """`made`, after `check_work`."""
    check_work(stage, given, made)
    return made


def without_result(stage: Stage, rows: pa.Table) -> pa.Table:
    """Rows that a stage failed on: dropped, and without values of it."""
    rows = set_columns(rows, {column.name: pa.nulls(len(rows), column.type) for column in stage.adds})
    return stage.drop(rows, **{FAILED: pa.array([True] * len(rows))})


def of_the_list(stage: Stage, rows: pa.Table) -> dict[str, pa.ChunkedArray]:
    """The list's own columns that a stage reads; ours win where names clash."""
    if not stage.reads_input or "input" not in rows.schema.names:
        return {}
    there = {field.name for field in rows.schema.field("input").type} - set(rows.schema.names)
    wanted = dict.fromkeys([*stage.reads, *stage.optional])
    return {name: pc.struct_field(rows["input"], name) for name in wanted if name in there}


def check_work(stage: Stage, given: pa.Table, made: pa.Table) -> None:
    """Raise IntegrityError unless `made` is `given` with the columns and drops that were declared, and nothing else."""
    if not isinstance(made, pa.Table):
        raise IntegrityError(f"stage {stage.name} must return a pyarrow.Table; found: {type(made).__name__}")
    names = made.schema.names
    if twice := {name for name in names if names.count(name) > 1}:
        raise IntegrityError(f"stage {stage.name} must return each column once; found twice: {min(twice)}")
    added = {column.name: column for one in (stage, *stage.inner) for column in one.adds}
    if lost := [name for name in given.schema.names if name not in names and name not in added]:
        raise IntegrityError(f"stage {stage.name} must return the columns it was given; missing: {', '.join(lost)}")
    if not made["uid"].equals(given["uid"]):
        raise IntegrityError(f"stage {stage.name} must return the rows it was given, all of them and in the same order")
    for column in added.values():
        found = made.schema.field(column.name).type if column.name in names else None
        if found != column.type:
            raise IntegrityError(
                f"stage {stage.name} must add the column {column.name} of type {column.type}, as it declares; "
                f"found: {found or 'no such column'}"
            )
    for name in names:
        if name in added or name in DROPS:
            continue
        if name in given.schema.names:
            if not _unchanged(given[name], made[name]):
                raise IntegrityError(
                    f"stage {stage.name} must leave columns that it does not add as they are; changed: {name}"
                )
        elif not name.startswith("_"):
            raise IntegrityError(f"stage {stage.name} must declare the columns that it adds; found: {name}")
    _check_drops(stage, given, made)


def _unchanged(given: pa.ChunkedArray, made: pa.ChunkedArray) -> bool:
    # Arrow compares no bytes of a column that was passed on.  To it, NaN differs from NaN.
    return bool(made.equals(given)) or (
        made.type == given.type and content_digest(pa.table({"": made})) == content_digest(pa.table({"": given}))
    )


def _check_drops(stage: Stage, given: pa.Table, made: pa.Table) -> None:
    was = pc.is_valid(given["drop_reason"])
    for name in DROPS:
        kept = pc.or_(pc.invert(was), pc.fill_null(pc.equal(given[name], made[name]), False))
        if not pc.all(kept, min_count=0).as_py():
            raise IntegrityError(f"stage {stage.name} must keep the {name} of rows that were dropped before it")
    _check_reasons(stage, made.filter(pc.invert(was)), [s.name for s in (stage, *stage.inner)])


def without_dropped(stage: Stage, made: pa.Table) -> pa.Table:
    """What a stage without drop reasons made, without results for rows that were dropped before it.

    Unless it has a model, its table has no drop columns.  That it leaves dropped rows alone shows that it follows from
    the tables before.
    Raises IntegrityError if the stage's `left_alone` takes rows without results for rows that it worked on.
    """
    if stage.drops or stage.made_from is not None or not stage.adds:
        return made
    dropped = pc.is_valid(made["drop_reason"])
    if not _worked_on(stage, made, dropped):
        return made
    cleared = {c.name: pc.if_else(dropped, pa.scalar(None, c.type), made[c.name]) for c in stage.adds}
    made = set_columns(made, cleared)
    if _worked_on(stage, made, dropped):
        raise IntegrityError(f"`left_alone` of stage {stage.name} must be true for rows without results")
    return made


def _worked_on(stage: Stage, rows: pa.Table, dropped: pa.ChunkedArray) -> bool:
    return bool(pc.any(pc.and_(dropped, pc.invert(stage.left_alone(rows))), min_count=0).as_py())


def _check_reasons(stage: Stage, rows: pa.Table, names: Sequence[str]) -> None:
    reasons = {reason for one in (stage, *stage.inner) for reason in one.drops}
    found = set(pc.unique(rows["drop_reason"]).to_pylist()) - {None}
    where = set(pc.unique(rows["drop_stage"]).to_pylist()) - {None}
    if not (found <= reasons and where <= set(names)):
        raise IntegrityError(
            f"stage {stage.name} must drop rows with Stage.drop, for reasons that it declares; "
            f"found: {', '.join(sorted(found - reasons) or sorted(where - set(names)))}"
        )
