"""Pictures prepared on CPUs for the models that embed them: decoded once a shard, in tasks of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.embedding.preparation import Preparation, with_pixels
from curation.embedding.stage import Embed
from curation.flow import Tables
from curation.reuse import restored, to_be_made, was_there
from curation.schema import live
from pipelines.stages.row_stage import ActorStage


class PrepareStage:
    """Adds, for each model that has work on a shard, the private column of its pixels."""

    def __init__(self, stages: Sequence[Embed], tables: Tables) -> None:
        """stages: those of a segment that embed."""
        self._wanted = [(stage, stage.preparation()) for stage in stages]
        self._tables = tables

    def __call__(self, rows: pa.Table) -> pa.Table:
        waiting: dict[Preparation, pa.Array] = {}
        for stage, preparation in self._wanted:
            table = self._tables.name_of(stage)
            if f"_content_{table}" in rows.schema.names:
                continue
            mask = live(rows)
            if was_there(table) in rows.schema.names:
                again = to_be_made(stage, restored(stage, rows), self._tables.made_by.get(stage.name, ""))
                mask = pc.and_(mask, again)
            earlier = waiting.get(preparation)
            waiting[preparation] = mask if earlier is None else pc.or_(earlier, mask)
        there = np.asarray(rows["image"].is_valid())
        for preparation, mask in waiting.items():
            wanted = np.asarray(pc.fill_null(mask, False)) & there
            if preparation.boxes:
                wanted &= np.asarray(rows[preparation.boxes].is_valid())
            rows = with_pixels(rows, wanted, [preparation])
        return rows

    def last_uses(self) -> dict[str, tuple[str, ...]]:
        """Stage -> the columns of pixels that no later stage needs."""
        last = {preparation.column: stage.name for stage, preparation in self._wanted}
        return {stage.name: tuple(c for c, name in last.items() if name == stage.name) for stage, _ in self._wanted}


def seeing_alike(stages: Sequence[Embed]) -> list[list[Embed]]:
    """The stages in groups of those that see the same pictures, before they are scaled; each in order."""
    groups: dict[str | None, list[Embed]] = {}
    for stage in stages:
        groups.setdefault(stage.config.mask_text, []).append(stage)
    return list(groups.values())


class EmbedStage(ActorStage):
    """Runs a dual encoder, and frees the pixels that no later one needs."""

    spent: ClassVar[tuple[str, ...]] = ()

    def __call__(self, rows: pa.Table) -> pa.Table:
        done = super().__call__(rows)
        return done.drop_columns([name for name in self.spent if name in done.schema.names])


def freeing(spent: Sequence[str]) -> type[EmbedStage]:
    """`EmbedStage` that frees these columns."""
    return type(EmbedStage.__name__, (EmbedStage,), {"spent": tuple(spent)})
