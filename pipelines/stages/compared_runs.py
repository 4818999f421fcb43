"""Other runs whose rows take part in looking for duplicates (`against` of a selection)."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from curation.duplicates.kinds import kinds_of
from curation.duplicates.other_runs import named_for
from curation.filters.stage import input_columns
from curation.flow import Tables
from curation.plan import input_type
from curation.plan_file import read_plan
from curation.schema import set_columns
from curation.selections.steps import Rules
from curation.shards import Work, listed, read_shard
from curation.table import PLAN
from pairmill.config import digest
from pairmill.damage import damaged
from pairmill.errors import RunDirError, nearest
from pairmill.layout import SELECTIONS
from pairmill.store import Entry, Store, shard_file

#: Segments of the stages whose numbers mean something only beside those of the same model and configuration.
_MEANING = ("score", "rewrite")


class RunToCompare:
    """A committed selection of another run, and the columns that are compared of it."""

    def __init__(
        self,
        name: str,
        store: Store,
        selection: str,
        columns: Mapping[str, Sequence[str]],
        listed_columns: Collection[str] = (),
        stages: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        """name: of the recipe.  columns: table -> those compared.  listed_columns: those compared of the plan or list.

        stages: table -> the stages of it whose numbers are compared.
        Raises RunDirError for a run that does not have them all.
        """
        self.name, self._store, self._selection, self._columns = name, store, selection, dict(columns)
        self._stages = dict(stages or {})
        plan = read_plan(store)
        if plan is None:
            raise self._refused("be curated runs", "there is no run", "correct the path")
        self.shards, self.rows = plan.shard_numbers(), plan.rows
        self._input_type = input_type(store, plan.inputs[-1])
        there = store.folders(SELECTIONS)
        if selection not in there:
            raise self._refused(
                "have the selections that are named",
                f"there is no selection {selection}",
                f"perhaps you mean: {nearest(selection, there)}" if there else "finish it with `pairmill curate`",
            )
        for table in self._tables:
            missing = set(self.shards) - self._committed[table].keys()
            if missing:
                raise self._refused(
                    "be finished as far as they are compared",
                    f"{table} lacks {len(missing):,} of {len(self.shards):,} shards",
                    "finish it with `pairmill curate`, with the stages that make this table, under the same name",
                )
        given = store.schema(shard_file(PLAN, plan.inputs[-1].first_shard)).names
        own = [] if self._input_type is None else [field.name for field in self._input_type]
        known = {PLAN: [*given, *own, *(f"input.{name}" for name in own)]}
        known |= {table: store.schema(shard_file(table, self.shards[0])).names for table in self._columns}
        for table, names in {PLAN: listed_columns, **self._columns}.items():
            if unknown := [name for name in names if name not in known[table]]:
                raise self._refused(
                    "have the columns that are compared",
                    f"{table} has no {unknown[0]}",
                    "leave the run out, or the kind of duplicates that reads the column",
                )

    @property
    def _tables(self) -> list[str]:
        return [PLAN, *self._columns, f"{SELECTIONS}/{self._selection}"]

    @cached_property
    def _committed(self) -> Mapping[str, Mapping[int, Entry]]:
        return listed(self._store, self._tables)

    def __getstate__(self) -> dict[str, Any]:
        # Workers are told which shard they read.
        return {name: value for name, value in self.__dict__.items() if name != "_committed"}

    @property
    def content(self) -> str:
        """Digest of what is compared: another one, and what was found against it is stale."""
        return digest([[entry.content for _, entry in sorted(self._committed[name].items())] for name in self._tables])

    def check_made_alike(self, own: Store) -> None:
        """Raise RunDirError for columns that were made otherwise than those of this run: they mean something else.

        own: this run.
        """
        for table, stages in self._stages.items():
            here, there = own.manifests(table), self._store.manifests(table, self._committed[table])
            for stage in stages:
                found = {manifest.get("made_by", {}).get(stage) for manifest in (*here, *there)}
                if None in found:
                    raise self._refused(
                        "say by what the columns that are compared were made",
                        f"{table} of that run, or of this one, was made before pairmill recorded it",
                        f"rename RUN/{table} and run `pairmill curate` to make it again, or leave out the kind of "
                        "duplicates that compares it",
                    )
                if len(found) > 1:
                    raise self._refused(
                        "have columns that were made as this run's, where a model made them",
                        f"{table} was made with another model, configuration or version of pairmill",
                        "make both alike, or leave out the kind of duplicates that compares it",
                    )

    def rows_of(self, shard: int, *, as_shard: int) -> pa.Table:
        """The rows of a shard that are in the selection, as `met_rows` takes them.  as_shard: its number here."""
        work = Work(shard, dict.fromkeys(self._columns, ""))
        rows = read_shard(self._store, work, self._columns, self._input_type)
        table = f"{SELECTIONS}/{self._selection}"
        chosen = self._store.load(table, shard, ["uid", "keep"])
        if not chosen["uid"].equals(rows["uid"]):
            raise damaged(self._store.path(shard_file(table, shard)), "it holds other rows than the plan")
        places = {
            "shard": pa.repeat(pa.scalar(as_shard, pa.int32()), len(rows)),
            "row": pa.array(range(len(rows)), pa.int32()),
            "score": pa.nulls(len(rows), pa.float64()),  # `best_elsewhere` says how good they are
            "uid": named_for(self.name, rows["uid"]),
        }
        return set_columns(rows, {**input_columns(rows), **places}).filter(pc.fill_null(chosen["keep"], False))

    def _refused(self, rule: str, value: str, fix: str) -> RunDirError:
        return RunDirError(
            f"runs that a selection is compared against must {rule}", value=f"{self._store.uri}: {value}", fix=fix
        )


def check_other_runs(rules: Sequence[Rules], store: Store) -> None:
    """Raise RunDirError for a run that a selection is compared against and that is none, or is this one.

    rules: those of the recipe.  store: of this run.
    """
    for one in rules:
        for name, given in one.config.against.items():
            there = Store(given.run)
            if _place(there) == _place(store):
                raise RunDirError(
                    "runs that a selection is compared against must be others",
                    value=f"{name}: {given.run}, which is this run",
                    fix="correct the path; duplicates within the run are found without it",
                )
            RunToCompare(name, there, given.selection, {})


def _place(store: Store) -> str:
    return os.path.realpath(store.path("")) if isinstance(store.filesystem, pafs.LocalFileSystem) else store.uri


def runs_to_compare(rules: Rules, tables: Tables, reads: Mapping[str, Sequence[str]]) -> list[RunToCompare]:
    """The runs that a selection is compared against.

    tables, reads: of this run; table -> columns that the selection reads.
    Raises RunDirError for one that cannot be compared.
    """
    compared = {name for kind in kinds_of(rules.config.duplicates) for name in kind.reads}
    columns = {table: [name for name in names if name in compared] for table, names in reads.items()}
    columns = {table: names for table, names in columns.items() if names}
    stages: dict[str, list[str]] = {}
    for stage in tables.flow.stages:
        if stage.segment in _MEANING and {column.name for column in stage.adds} & compared:
            stages.setdefault(tables.name_of(stage), []).append(stage.name)
    listed_columns = compared - {name for names in columns.values() for name in names}
    return [
        RunToCompare(name, Store(one.run), one.selection, columns, listed_columns, stages)
        for name, one in rules.config.against.items()
    ]
