"""Recaption and translate, each in a pool of actors that hold a model."""

from __future__ import annotations

import time
from typing import Any

import pyarrow as pa

from curation.recaption import Recaption
from curation.schema import Stage, add_seconds
from curation.translate import Translate
from pipelines.stages.told import Told


class _ModelStage:
    """Add what a model makes of the rows; passes on shards that have `column`, which it adds."""

    stage: Stage
    load: type[Recaption] | type[Translate]

    def __init__(self, config: Any, column: str, board: Any) -> None:
        """config: the stage's section of the recipe."""
        self._work, self._column = self.load(config), column
        self._told = Told(board, self.stage)

    def __call__(self, rows: pa.Table) -> pa.Table:
        if self._column in rows.schema.names:
            return rows
        began = self._told.begin()
        rows = self._work(rows)
        return self._told.end(add_seconds(rows, self.stage, time.perf_counter() - began))


# A class each: its name is what Ray's dashboard calls the operator.
class RecaptionStage(_ModelStage):
    """Captions by an image-text model."""

    stage, load = Stage.RECAPTION, Recaption


class TranslateStage(_ModelStage):
    """Translations by a text model."""

    stage, load = Stage.TRANSLATE, Translate
