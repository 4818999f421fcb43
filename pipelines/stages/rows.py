"""A streaming stage as Ray Data calls it: a whole shard in, the same shard out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.schema import DROPS, RETRYABLE, add_seconds, set_columns
from curation.stage import Runtime, Stage
from pairmill.errors import IntegrityError
from pairmill.store import Store
from pipelines.stages.told import Told


@dataclass(frozen=True)
class Setting:
    """What a job gives to the workers of a stage.

    table:  the table that the stage's columns go to; a shard that has it already is passed on.
    before: the stages before it.
    gate:   the actor by which fetching actors share what a host may be asked; None where there is none.
    """

    store: Store
    board: Any
    table: str
    before: tuple[str, ...]
    decoders: int = 1
    gate: Any = None

    def runtime(self, meter: Any, topic: str) -> Runtime:
        """What the stage is set up with."""
        gate, board = self.gate, self.board

        async def exchange(*args: Any) -> Any:
            return await gate.exchange.remote(*args)

        def warn(text: str) -> None:
            board.warn.remote(topic, text)

        return Runtime(self.store, meter, self.decoders, None if gate is None else exchange, warn)


class RowStage:
    """Runs one stage, and those within it, on whole shards; sets it up in the worker, at the first shard."""

    def __init__(self, stage: Stage, setting: Setting) -> None:
        self._stage, self._setting = stage, setting
        self._told = Told(setting.board, (stage, *stage.inner), setting.before)
        self._ready = False

    def __call__(self, rows: pa.Table) -> pa.Table:
        if f"_content_{self._setting.table}" in rows.schema.names:
            return rows
        self._set_up()
        began = self._told.begin()
        return self._told.end(self._worked(rows, began))

    def _set_up(self) -> None:
        if not self._ready:
            self._stage.setup(self._setting.runtime(self._told.meter, self._stage.name))
            self._ready = True

    def _worked(self, rows: pa.Table, began: float) -> pa.Table:
        done = self._stage(rows)
        check_work(self._stage, rows, done)
        if f"_seconds_{self._stage.name}" in done.schema.names:
            return done
        return add_seconds(done, self._stage.name, time.perf_counter() - began)


class ActorStage(RowStage):
    """As `RowStage`, in an actor, which sets the stage up before its first shard."""

    def __init__(self, stage: Stage, setting: Setting) -> None:
        super().__init__(stage, setting)
        self._set_up()


class RetryStage(ActorStage):
    """Fetch again the rows of committed shards whose failure may have passed, and put the shard together again."""

    def __call__(self, rows: pa.Table) -> pa.Table:
        self._told.begin()
        failed = pc.is_in(rows["status"], pa.array([s.value for s in RETRYABLE]))
        nothing = pa.nulls(len(rows), pa.string())
        asked = set_columns(rows, dict.fromkeys(DROPS, nothing)).filter(failed)
        own = {name for stage in (self._stage, *self._stage.inner) for name in stage.column_names()}
        done = self._stage(asked.drop_columns([n for n in asked.schema.names if n in own]))
        done = done.select([n for n in done.schema.names if n in rows.schema.names]).select(rows.schema.names)
        # Rows and their replacements, each back in its place.
        place = np.arange(len(rows))
        again = place[np.asarray(failed)]
        order = np.argsort(np.r_[np.setdiff1d(place, again), again])
        rows = pa.concat_tables([rows.filter(pc.invert(failed)), done.cast(rows.schema)]).take(pa.array(order))
        return self._told.end(rows.drop_columns([f"_content_{self._setting.table}"]), worked=done)


def named(stage: Stage, kind: type[RowStage]) -> type[RowStage]:
    """`kind` under the stage's name, which is what Ray's dashboard calls the operator."""
    words = stage.name.replace("-", "_").split("_")
    return type("".join(word.capitalize() for word in words) + "Stage", (kind,), {})


def check_work(stage: Stage, given: pa.Table, made: pa.Table) -> None:
    """Raise IntegrityError unless `made` has the rows of `given` in their order, and the columns that were declared."""
    if not made["uid"].equals(given["uid"]):
        raise IntegrityError(f"stage {stage.name} must return the rows it was given, all of them in their order")
    for column in (column for one in (stage, *stage.inner) for column in one.adds):
        found = made.schema.field(column.name).type if column.name in made.schema.names else None
        if found != column.type:
            raise IntegrityError(
                f"stage {stage.name} must add the column {column.name} of type {column.type}, as it declares; "
                f"found: {found or 'no such column'}"
            )
    was = pc.is_valid(given["drop_reason"])
    for name in DROPS:
        kept = pc.or_(pc.invert(was), pc.fill_null(pc.equal(given[name], made[name]), False))
        if not pc.all(kept, min_count=0).as_py():
            raise IntegrityError(f"stage {stage.name} must leave the {name} of rows that were dropped before it")
    _check_reasons(stage, made.filter(pc.invert(was)), [s.name for s in (stage, *stage.inner)])


def _check_reasons(stage: Stage, rows: pa.Table, names: Sequence[str]) -> None:
    reasons = {reason for one in (stage, *stage.inner) for reason in one.drops}
    found = set(pc.unique(rows["drop_reason"]).to_pylist()) - {None}
    where = set(pc.unique(rows["drop_stage"]).to_pylist()) - {None}
    if not (found <= reasons and where <= set(names)):
        raise IntegrityError(
            f"stage {stage.name} must drop rows for the reasons that it declares, with Stage.drop; "
            f"found: {', '.join(sorted(found - reasons) or sorted(where - set(names)))}"
        )
