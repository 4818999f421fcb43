"""Selections that read what is made after the barrier, such as scores of texts that models write: they come last.

Texts are written for the rows that the product's selection keeps, so that selection cannot read them; others can.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from curation.schema import set_columns
from curation.selections.steps import Rules
from pairmill.errors import RecipeError
from pairmill.store import Store


def late_selections(rules: Sequence[Rules], made_later: Mapping[str, str]) -> frozenset[str]:
    """The names of the selections that read such columns, or are made from one that does.

    rules: each after its bases.  made_later: column -> the stage that makes it.
    """
    found: set[str] = set()
    for one in rules:
        if made_later.keys() & {*one.columns} or found & {*one.bases}:
            found.add(one.name)
    return frozenset(found)


def require_early(packed: str, rules: Sequence[Rules], made_later: Mapping[str, str]) -> None:
    """Raise RecipeError if the product's selection reads such columns.  packed: its name.  Others as above."""
    by_name = {one.name: one for one in rules}
    if packed not in late_selections(rules, made_later):
        return
    pending, seen = [packed], set[str]()
    while pending:
        one = by_name.get(pending.pop())
        if one is None or one.name in seen:
            continue
        seen.add(one.name)
        pending += one.bases
        for column in one.columns:
            if column in made_later:
                raise RecipeError(
                    "pack.selection must read columns that are there before texts are written for the rows it keeps",
                    value=f"{packed}: selections.{one.name} reads {column}, which {made_later[column]} makes later",
                    fix="pack another selection, and train on this one (data.selection): it is made after the texts",
                )


def without_unused(store: Store, later: Mapping[str, Sequence[str]], shard: int, rows: pa.Table) -> pa.Table:
    """The rows of a shard, null where a table shows the row as dropped: results of an earlier recipe stay there.

    later: table -> its columns.
    """
    for table, columns in later.items():
        dropped = store.load(table, shard, ["drop_reason"])["drop_reason"].is_valid()
        places = pa.array(np.arange(len(rows)), mask=np.asarray(dropped))
        rows = set_columns(rows, {name: rows[name].take(places) for name in columns})
    return rows
