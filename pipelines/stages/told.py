"""How a stage tells the progress board and the metrics what it did."""

from __future__ import annotations

import time
from typing import Any

import pyarrow as pa
from ray.data import DataContext

from curation.schema import Stage, count_drops
from curation.telemetry import METRICS, count_fetches, count_rows, count_texts
from pairmill.meters import Meter

#: Where Ray Data carries the run's name from the driver to the workers.
_RUN = "pairmill.run"


def name_run(uri: str) -> None:
    """Give the metrics of this process's jobs the last part of a run directory as their `run`."""
    DataContext.get_current().set_config(_RUN, uri.rstrip("/").rpartition("/")[2])


def run_meter() -> Meter:
    """The metrics of the run that this worker is part of."""
    return Meter(METRICS, run=DataContext.get_current().get_config(_RUN, ""))


class Told:
    """A stage that tells what it did: the board, which is the driver's, and the metrics, which are the node's."""

    def __init__(self, board: Any, *stages: Stage) -> None:
        self._board, self._stages = board, stages
        self.meter = run_meter()

    def begin(self) -> float:
        """The moment a shard is taken up."""
        for stage in self._stages:
            self._board.begin.remote(stage.value, time.time())
        return time.perf_counter()

    def end(self, rows: pa.Table, worked: pa.Table | None = None) -> pa.Table:
        """The shard is done.  worked: the rows that there was work on; None: all."""
        counts = count_drops(rows, self._stages)
        for name, of_stage in counts.items():
            self._board.add.remote(name, of_stage["rows_in"], of_stage["rows_kept"], time.time())
        worked, counts = (rows, counts) if worked is None else (worked, count_drops(worked, self._stages))
        count_rows(self.meter, counts)
        for stage in self._stages:
            if stage is Stage.DOWNLOAD:
                count_fetches(self.meter, worked)
            count_texts(self.meter, stage, worked)
        return rows
