"""What became of the rows of a run, finished or not: the tables of a shard joined, and every count checked.

reads: plan, images, columns/filter, selections/<name>, columns/recaption, columns/translate, their manifests, the
       recipe and the journal

The tables of a shard follow one another, and each says again which rows are dropped.  A killed run may leave a table
behind that was made from rows which have changed since (a retried shard, say): such a table counts as not there yet.
In a run that ended well there can be none, so there it is a bug, and an AssertionError.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import yaml

from curation.pack import PackConfig
from curation.plan import Plan
from curation.schema import Stage, count_drops, set_columns
from pairmill.errors import RunDirError
from pairmill.store import Store

_DROPS = ("drop_stage", "drop_reason")


class Link(NamedTuple):
    """A table of the chain: the stages it counts, and the columns that tell which rows are dropped.

    drops: whether it may drop rows itself; the others only leave out what was dropped before.
    """

    table: str
    stages: tuple[Stage, ...]
    tells: tuple[str, ...]
    drops: bool = True


@dataclass(frozen=True)
class Run:
    """A run directory as it is now.

    manifests: table -> shard -> manifest of what is committed.
    records:   the journal, one record an invocation, in order.
    chain:     the tables that every shard of a complete run has, in the order the rows meet them.
    packs:     whether the product is made from this selection.
    """

    store: Store
    plan: Plan
    recipe: Mapping[str, Any]
    records: Sequence[Mapping[str, Any]]
    chain: tuple[Link, ...]
    packs: bool
    manifests: Mapping[str, Mapping[int, Mapping[str, Any]]]

    @property
    def settled(self) -> bool:
        """Whether the last invocation ended well, after its last segment."""
        if not self.records:
            return False
        last = self.records[-1]
        return bool(last["finished_at"]) and not last.get("failed") and "pack" in last["segments"]

    @property
    def pack_config(self) -> PackConfig:
        """How this run packs."""
        return PackConfig.model_validate(self.recipe.get("pack", {}))


class Outcome(NamedTuple):
    """One shard: its rows with their drops so far, the tables it has, and what each stage did with it.

    rows:    plan rows in plan order, the columns asked for (those of tables that are there), drop_stage, drop_reason.
    tables:  the tables of `Run.chain` that are there, from the first on.
    counts:  stage -> rows_in, rows_kept, and rows by drop reason.
    """

    shard: int
    rows: pa.Table
    tables: tuple[str, ...]
    counts: Mapping[str, Mapping[str, int]]


def open_run(store: Store, selection: str = "default") -> Run:
    """The run in this directory, as seen through one of its selections.  Raises RunDirError if nothing is planned."""
    plan = store.read_json("plan/plan.json")
    if plan is None:
        raise RunDirError(
            "a run directory holds plan/plan.json", value=store.uri, fix="check the path, or start the run first"
        )
    recipe = yaml.safe_load(store.read_text("recipe.yaml") or "") or {}
    packs = (recipe.get("deduplicate") or {}).get("name", "default") == selection
    chain = [
        Link("images", (Stage.PLAN, Stage.DOWNLOAD, Stage.INSPECT), _DROPS),
        Link("columns/filter", (Stage.FILTER,), _DROPS),
        Link(f"selections/{selection}", (Stage.DEDUPLICATE,), ("keep", "reason")),
    ]
    # What follows the selection is there once, for the selection that the recipe names.
    if packs and _active(recipe, "recaption"):
        chain.append(Link("columns/recaption", (Stage.RECAPTION,), ("recaption_status",), drops=False))
    if packs and _active(recipe, "translate"):
        chain.append(Link("columns/translate", (Stage.TRANSLATE,), ("translate_status",), drops=False))
    tables = [link.table for link in chain] + (["pairs"] if packs else [])
    return Run(
        store=store,
        plan=Plan.model_validate(plan),
        recipe=recipe,
        records=_records(store),
        chain=tuple(chain),
        packs=packs,
        manifests={table: {int(m["shard"]): m for m in store.manifests(table)} for table in tables},
    )


def _active(recipe: Mapping[str, Any], stage: str) -> bool:
    section = recipe.get(stage) or {}
    enabled = section.get("enabled")
    return section.get("model") is not None if enabled is None else bool(enabled)


def _records(store: Store) -> list[Mapping[str, Any]]:
    records: list[Mapping[str, Any]] = []
    while (record := store.read_json(f"runs/run-{len(records) + 1:04d}.json")) is not None:
        records.append(record)
    return records


def read_outcome(run: Run, shard: int, columns: Mapping[str, Sequence[str]]) -> Outcome:
    """One shard of a run, with `columns` (table -> columns; `plan` is a table too).

    Raises AssertionError, naming table and shard, if a table and its manifest disagree, or if two tables of a run that
    ended well do.
    """
    rows = run.store.load("plan", shard, ["uid", *columns.get("plan", ()), *_DROPS])
    counts = count_drops(rows, [Stage.PLAN])
    reached = []
    for link in run.chain:
        manifest = run.manifests[link.table].get(shard)
        if manifest is None:
            break
        wanted = list(columns.get(link.table, ()))
        loaded = run.store.load(link.table, shard, list(dict.fromkeys(["uid", *link.tells, *wanted])))
        where = f"{link.table} shard {shard}"
        assert len(loaded) == manifest["rows"], f"{where}: {len(loaded)} rows, its manifest says {manifest['rows']}"
        assert loaded["uid"].equals(rows["uid"]), f"{where}: its rows are not those of the plan"
        drops, follows = _told(rows, loaded, link)
        counted = count_drops(drops, link.stages)
        says = f"{where}: its rows say {counted}, its manifest says {manifest['stages']}"
        agrees = counted == manifest["stages"]
        assert agrees or not (link.drops and follows), says
        if not (follows and agrees):
            assert not run.settled, f"{says}, and its drops do not follow from those of the tables before it"
            break
        counts |= counted
        rows = set_columns(rows, {n: drops[n] for n in _DROPS} | {n: loaded[n] for n in wanted})
        reached.append(link.table)
    return Outcome(shard, rows, tuple(reached), counts)


def _told(rows: pa.Table, loaded: pa.Table, link: Link) -> tuple[pa.Table, bool]:
    """The drops (drop_stage, drop_reason) that a table tells, and whether they follow from those known before it."""
    dropped = pc.is_valid(rows["drop_reason"])
    if not link.drops:
        taken = pc.not_equal(loaded[link.tells[0]], "not_needed")
        return rows, not pc.any(pc.and_(dropped, taken), min_count=0).as_py()
    if link.tells == _DROPS:
        drops, keeps = loaded, True
    else:
        newly = pc.and_(pc.invert(dropped), pc.is_valid(loaded["reason"]))
        stage = pc.if_else(newly, link.stages[0].value, rows["drop_stage"])
        drops = pa.table({"drop_stage": stage, "drop_reason": loaded["reason"]})
        keeps = loaded["keep"].equals(pc.is_null(loaded["reason"]))
    same = pc.and_(*(pc.fill_null(pc.equal(rows[name], drops[name]), False) for name in _DROPS))
    own = pc.is_in(drops["drop_stage"], pa.array([stage.value for stage in link.stages]))
    fits = pc.if_else(dropped, same, pc.or_(pc.is_null(drops["drop_reason"]), own))
    return drops, keeps and bool(pc.all(fits, min_count=0).as_py())
