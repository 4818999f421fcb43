"""The table of a selection: what it is made from, and so when it is stale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from curation.flow import Tables
from curation.selections.stage import Select
from curation.selections.steps import Rules
from curation.table import Table
from pairmill.config import digest
from pairmill.layout import SELECTIONS
from pairmill.store import Store


class SelectedTable(NamedTuple):
    """table: as the store keys it.  reads: table -> columns, besides the plan's.  stage: that makes it.

    later: those of `reads` in which dropped rows may have values of an earlier recipe (`late.without_unused`).
    """

    table: Table
    reads: Mapping[str, tuple[str, ...]]
    stage: Select
    later: Mapping[str, tuple[str, ...]] = {}


def selected_table(tables: Tables, rules: Rules) -> SelectedTable:
    """The table of a selection of the recipe, keyed by the tables of the columns that it reads and by its bases.

    tables: of the run, whatever selection its product is made from.
    """
    flow = tables.flow
    stage = Select(rules, [other for other in flow.rules if other is not rules], flow.selecting)
    before = flow.before(flow.selecting.name)
    there = {column for name in before for column in flow.named(name).column_names()} | flow.made_later.keys()
    reads = tables.reads(there & set(rules.columns), "global")
    upstream = [*reads, *(f"{SELECTIONS}/{name}" for name in rules.bases)]
    columns = stage.column_names()
    table = Table(
        f"{SELECTIONS}/{rules.name}", columns, [rules.config.identity()], tuple(upstream), (stage.name,), before
    )
    written = {tables.name_of(flow.named(name)) for name in flow.made_later.values()}
    later = {name: columns for name, columns in reads.items() if name in written and tables.named(name).drops}
    return SelectedTable(replace(table, makers=(stage,)), reads, stage, later)


def over_all(table: Table, contents: Mapping[str, Mapping[int, str]], others: Mapping[str, str] | None = None) -> Table:
    """The table of a selection in which a row depends on others: keyed by every shard of what it is made from.

    others: name -> digest of what is compared of another run.
    """
    seen = digest([[content for _, content in sorted(contents[name].items())] for name in table.upstream])
    return replace(table, identity=[table.identity, seen, *([dict(others)] if others else [])])


def facts_in(store: Store, name: str) -> dict[str, Any]:
    """What the manifests of a selection record of all rows (`curation.selections.thresholds.facts_of`); {}: nothing."""
    index = store.index(f"{SELECTIONS}/{name}")
    if not index:
        return {}
    first = min(index)
    manifest = store.manifest(f"{SELECTIONS}/{name}", first, index[first]) or {}
    found: dict[str, Any] = manifest.get("found", {}).get("select", {})
    return found
