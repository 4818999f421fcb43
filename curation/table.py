"""A table of a run, as the store keys it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pairmill.store import shard_key

if TYPE_CHECKING:
    from curation.stage import Stage

#: The table of the planned rows, with which every other table is aligned.
PLAN = "plan"


@dataclass(frozen=True)
class Table:
    """What a table keeps of the rows, what it is made from, and by which configuration.

    identity: plain data; with the contents of `upstream` it makes the key of a shard.
    stages:   the stages whose drops its manifest counts; their drops are the last that its own drop columns know of.
    before:   the stages before those, in order.
    volatile: columns that are no part of a shard's content.
    drops:    whether its stages drop rows at all.
    makers:   the stages that fill its columns; what they say of them goes into its manifests.
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

    def key(self, contents: Mapping[str, str]) -> str:
        """The key of a shard made from upstream shards with these contents."""
        return shard_key(self.identity, [contents[name] for name in self.upstream])

    @property
    def known(self) -> tuple[str, ...]:
        """The stages whose drops the table knows of."""
        return (*self.before, *self.stages)
