"""How a stage tells the progress board what it did."""

from __future__ import annotations

import time
from typing import Any

import pyarrow as pa

from curation.schema import Stage, count_drops


class Told:
    """A stage that tells the board what it did."""

    def __init__(self, board: Any, *stages: Stage) -> None:
        self._board, self._stages = board, stages

    def begin(self) -> float:
        """The moment a shard is taken up."""
        for stage in self._stages:
            self._board.begin.remote(stage.value, time.time())
        return time.perf_counter()

    def end(self, rows: pa.Table) -> pa.Table:
        """The shard is done."""
        for name, counts in count_drops(rows, self._stages).items():
            self._board.add.remote(name, counts["rows_in"], counts["rows_kept"], time.time())
        return rows
