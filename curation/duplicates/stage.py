"""Deduplicate, as a stage: a global step between the streaming segments."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import pyarrow as pa

from curation.duplicates.kinds import PIXELS, DeduplicateConfig, kinds_of, reads, reasons
from curation.selection import GROUP, GROUP_ID
from curation.stage import Column, Stage
from pairmill.errors import RecipeError, nearest
from pairmill.layout import SELECTIONS


class Deduplicate(Stage):
    """Keep the best row, by (score, uid), of each family of duplicates of all active kinds."""

    name, segment, table, pool = "deduplicate", "global", SELECTIONS, None
    adds: tuple[Column, ...] = (
        Column("keep", pa.bool_(), "whether the row is part of the selection"),
        Column("reason", pa.string(), "why it is not"),
        GROUP,
    )
    drops = reasons()
    reads_input = True
    Config = DeduplicateConfig

    def __init__(self, config: DeduplicateConfig) -> None:
        super().__init__(config)
        self.reads = reads(config)
        #: With those of kinds that are named by their import path.
        self.drops = tuple(dict.fromkeys([*(kind.name for kind in kinds_of(config)), *reasons()]))
        if self.keeps_all:
            self.adds = (*type(self).adds, GROUP_ID)

    def see(self, columns: Collection[str]) -> None:
        """Fill in what the kinds leave to the columns of the stages before.  Raises RecipeError."""
        self.config = self.config.resolved(columns)
        self.reads = reads(self.config)

    @property
    def keeps_all(self) -> bool:
        """Whether duplicates stay, in groups."""
        return bool(self.config.enabled and self.config.keep == "all")

    @property
    def selection(self) -> str:
        """The name of the selection that it makes."""
        return str(self.config.name)

    def check(self, columns: Mapping[str, pa.DataType]) -> None:
        """Raise RecipeError for a score that is no numeric column, and for a kind with unknown columns."""
        known = [name for name, kind in columns.items() if pa.types.is_integer(kind) or pa.types.is_floating(kind)]
        if self.config.score not in (PIXELS, *known):
            raise RecipeError(
                "deduplicate.score must name a numeric column",
                value=self.config.score,
                fix=f"perhaps you mean: {nearest(self.config.score, [PIXELS, *known])}",
            )
        for kind in kinds_of(self.config):
            for name in kind.reads:
                if name not in columns:
                    raise RecipeError(
                        "deduplicate.kinds must read columns of the input list or of earlier stages",
                        value=f"{kind.name} reads {name}",
                        fix=f"perhaps you mean: {nearest(name, columns)}",
                    )
            kind.check(columns)
