"""A table of a run, as the store keys it, and the tables that a run has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pairmill.layout import PAIRS, SELECTIONS
from pairmill.store import Store, shard_key

if TYPE_CHECKING:
    from curation.stage import Stage

#: The table of the planned rows, with which every other table is aligned.
PLAN = "plan"

#: The table of pictures, which cost fetches.
IMAGES = "images"

#: The folder of the narrow tables.
COLUMNS = "columns"


@dataclass(frozen=True)
class Table:
    """What a table keeps of the rows, what it is made from, and with which configuration.

    identity: plain data; with the contents of `upstream` it makes the key of a shard.
    stages:   the stages whose drops its manifest counts, which are the last in its own drop columns.
    before:   the stages before those, in order.
    volatile: columns that are not part of a shard's content.
    drops:    whether it shows which rows are dropped: tables of stages that drop rows, and of models.
    makers:   the stages that fill its columns; their `facts` go into its manifests.
    own:      the run's table of the same columns, if this one is a selection's: results are taken over from it.
    """

    name: str
    columns: tuple[str, ...]
    identity: object
    upstream: tuple[str, ...]
    stages: tuple[str, ...]
    before: tuple[str, ...] = ()
    volatile: frozenset[str] = frozenset()
    drops: bool = True
    makers: tuple[Stage, ...] = field(default=(), compare=False)
    own: str = ""

    def key(self, contents: Mapping[str, str]) -> str:
        """The key of a shard made from upstream shards with these contents."""
        return shard_key(self.identity, [contents[name] for name in self.upstream])

    @property
    def known(self) -> tuple[str, ...]:
        """The stages whose drops the table contains."""
        return (*self.before, *self.stages)


def tables_there(store: Store, *folders: str) -> list[str]:
    """The tables that a run has, used or not, committed in whole or in part, from the plan to the product.

    folders: COLUMNS or SELECTIONS; then only those in them.
    """
    inner = [
        f"{folder}/{name}"
        for folder in folders or (COLUMNS, SELECTIONS)
        for name in store.folders(folder)
        if not name.endswith(".partial")  # what a killed writer left
    ]
    return inner if folders else [PLAN, IMAGES, *inner, PAIRS]
