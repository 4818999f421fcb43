"""What became of the rows of a run, finished or not: the tables of a shard joined, and every count checked.

Each table of a shard follows from the ones before it and repeats which rows are dropped.  A killed run may leave a
table that was made from rows which have changed since (by a retry, for example): such a table counts as missing.  A run
that ended well cannot have one, so there it is a bug, and an IntegrityError.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from curation.flow import Tables, flow_of
from curation.pack import PackConfig
from curation.plan import Planned, open_plan
from curation.plan_file import Plan
from curation.schema import DROPS, count_drops, set_columns
from curation.stage import Stage
from curation.table import PLAN, Table
from pairmill.damage import damaged
from pairmill.errors import IntegrityError
from pairmill.layout import PAIRS, filter_table
from pairmill.recipe_file import run_recipe
from pairmill.run_records import ended_well, last_job, readable_records
from pairmill.store import Store, shard_file


@dataclass(frozen=True)
class Run:
    """A run directory as it is now.

    manifests: table -> shard -> manifest of what is committed.
    records:   the journal, one record per invocation, in order.
    lost:      the invocations whose record is damaged.
    tables:    those of the recipe's flow.
    chain:     the tables that every shard of a complete run has, in the order the rows pass them.
    packs:     whether the product is made from this selection.
    """

    store: Store
    plan: Plan
    recipe: Mapping[str, Any]
    records: Sequence[Mapping[str, Any]]
    lost: Sequence[int]
    tables: Tables
    chain: tuple[Table, ...]
    packs: bool
    manifests: Mapping[str, Mapping[int, Mapping[str, Any]]]

    @property
    def settled(self) -> bool:
        """Whether the last job ended well, after its last segment."""
        last = last_job(self.records)
        if last is None or any(number > last["run"] for number in self.lost):
            return False
        if any((record.get("forgot") or {}).get("without") for record in self.records if record["run"] > last["run"]):
            return False
        return ended_well(last)

    @property
    def pack_config(self) -> PackConfig:
        """How this run packs."""
        return PackConfig.model_validate(self.recipe.get("pack", {}))


class Outcome(NamedTuple):
    """One shard: its rows with their drops so far, the tables it has, and what each stage did with it.

    rows:    plan rows in plan order: the requested columns (if their table exists), drop_stage, drop_reason.
    tables:  the tables of `Run.chain` that exist, starting from the first.
    counts:  stage -> rows_in, rows_kept, and rows by drop reason.
    """

    shard: int
    rows: pa.Table
    tables: tuple[str, ...]
    counts: Mapping[str, Mapping[str, int]]


def open_run(store: Store, selection: str = "default") -> Run:
    """The run in this directory, as seen through one of its selections.  Raises RunDirError if nothing is planned."""
    planned = open_plan(store)
    recipe = run_recipe(store)
    packs = flow_of(recipe).selecting.selection == selection
    flow = flow_of(recipe, selection)
    # A selection beside the run's own was made by its own filters, if it has their table.
    beside = not packs and bool(store.index(filter_table(selection)))
    tables = Tables(flow, selection=selection, beside=beside, keyed=False)
    # What follows the selection exists once, for the selection that the recipe names.
    chain = tables.all if packs else (*tables.before("global"), tables.named(tables.selection))
    names = [table.name for table in chain] + ([PAIRS] if packs else [])
    records, lost = readable_records(store)
    return Run(
        store=store,
        plan=planned,
        recipe=recipe,
        records=records,
        lost=lost,
        tables=tables,
        chain=chain,
        packs=packs,
        manifests={name: {int(m["shard"]): m for m in store.manifests(name)} for name in names},
    )


def read_outcome(run: Run, shard: int, columns: Iterable[str]) -> Outcome:
    """One shard of a run, with `columns` of the plan and of the existing tables.

    Raises DamagedError if a table holds other rows than it was committed with; IntegrityError, naming table and shard,
    if it and its manifest disagree on them, or if two tables of a run that ended well do.
    """
    columns = list(columns)
    wanted = run.tables.select(columns)
    planned = [name for name in columns if run.tables.flow.owners.get(name, PLAN) == PLAN]
    rows = run.store.load(PLAN, shard, list(dict.fromkeys(["uid", *planned, *DROPS])))
    counts = count_drops(rows, [Planned.name])
    reached = []
    for table in run.chain:
        manifest = run.manifests[table.name].get(shard)
        if manifest is None:
            break
        asked = wanted.get(table.name, ())
        loaded = run.store.load(table.name, shard, list(dict.fromkeys(["uid", *_drop_columns(run, table), *asked])))
        where, file = f"{table.name} shard {shard}", run.store.path(shard_file(table.name, shard))
        if len(loaded) != manifest["rows"]:
            raise damaged(file, f"it has {len(loaded)} rows, and {manifest['rows']} in its manifest")
        if not loaded["uid"].equals(rows["uid"]):
            raise damaged(file, "it holds other rows than the plan")
        drops, follows = _drops_of(run, rows, loaded, table)
        counted = count_drops(drops, table.stages, table.before)
        disagree = f"{where} must count drops as its manifest does: {counted} in the rows, {manifest['stages']} there"
        agrees = counted == manifest["stages"]
        if table.drops and follows and not agrees:
            raise IntegrityError(disagree)
        if not (follows and agrees):
            if run.settled:
                raise IntegrityError(
                    f"{where} must follow from the tables before it in a run that ended well: "
                    f"{counted} in the rows, {manifest['stages']} in its manifest"
                )
            break
        counts |= counted
        rows = set_columns(rows, {n: drops[n] for n in DROPS} | {n: loaded[n] for n in asked})
        reached.append(table.name)
    return Outcome(shard, rows, tuple(reached), counts)


def _stages_of(run: Run, table: Table) -> list[Stage]:
    return [run.tables.flow.named(name) for name in table.stages if name != Planned.name]


def _drop_columns(run: Run, table: Table) -> tuple[str, ...]:
    """The columns that show which rows of a table are dropped, or left alone because they were."""
    if table.name == run.tables.selection:
        return ("keep", "reason")
    return DROPS if table.drops else tuple(name for s in _stages_of(run, table) for name in s.column_names())


def _drops_of(run: Run, rows: pa.Table, loaded: pa.Table, table: Table) -> tuple[pa.Table, bool]:
    """The drops (drop_stage, drop_reason) of a table, and whether they follow from those before it."""
    dropped = pc.is_valid(rows["drop_reason"])
    if not table.drops:
        taken = [pc.invert(stage.left_alone(loaded)) for stage in _stages_of(run, table)]
        return rows, not any(pc.any(pc.and_(dropped, mask), min_count=0).as_py() for mask in taken)
    if table.name == run.tables.selection:
        newly = pc.and_(pc.invert(dropped), pc.is_valid(loaded["reason"]))
        stage = pc.if_else(newly, table.stages[0], rows["drop_stage"])
        drops = pa.table({"drop_stage": stage, "drop_reason": loaded["reason"]})
        keeps = loaded["keep"].equals(pc.is_null(loaded["reason"]))
    else:
        drops, keeps = loaded, True
    same = pc.and_(*(pc.fill_null(pc.equal(rows[name], drops[name]), False) for name in DROPS))
    own = pc.is_in(drops["drop_stage"], pa.array(table.stages))
    fits = pc.if_else(dropped, same, pc.or_(pc.is_null(drops["drop_reason"]), own))
    return drops, keeps and bool(pc.all(fits, min_count=0).as_py())
