"""Recaption and translate, each in a pool of actors that hold a model."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from curation.schema import Stage, add_seconds
from pipelines.stages.told import Told


class ModelStage:
    """Add what a model makes of the rows; passes on shards that have `column`, which it adds."""

    def __init__(self, load: Callable[[Any], Any], config: Any, stage: Stage, column: str, board: Any) -> None:
        """load: `Recaption` or `Translate`, made of its configuration."""
        self._work, self._stage, self._column = load(config), stage, column
        self._told = Told(board, stage)

    def __call__(self, rows: pa.Table) -> pa.Table:
        if self._column in rows.schema.names:
            return rows
        began = self._told.begin()
        rows = self._work(rows)
        return self._told.end(add_seconds(rows, self._stage, time.perf_counter() - began))
