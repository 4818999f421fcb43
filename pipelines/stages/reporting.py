"""How a stage reports its work to the progress board and to the metrics."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import ray
from ray.data import DataContext

from curation.schema import count_drops
from curation.stage import Stage
from curation.telemetry import METRICS, count_rows
from pairmill.meters import Meter

#: Where Ray Data carries the run's name from the driver to the workers.
_RUN = "pairmill.run"


def name_run(uri: str) -> None:
    """Set the `run` of the metrics of this process's jobs: the last part of the run directory."""
    DataContext.get_current().set_config(_RUN, uri.rstrip("/").rpartition("/")[2])


def run_meter() -> Meter:
    """The metrics of the run that this worker belongs to."""
    return Meter(METRICS, run=DataContext.get_current().get_config(_RUN, ""))


class Reporter:
    """Reports what stages did: to the board (the driver's) and to the metrics (the node's)."""

    def __init__(self, board: Any, stages: Sequence[Stage], before: Sequence[str]) -> None:
        """stages: consecutive ones that work as one.  before: the names of the stages before them."""
        self._board, self._stages, self._before = board, list(stages), tuple(before)
        self.meter = run_meter()

    def begin(self) -> float:
        """Report that a shard is started; returns the time (`time.perf_counter`)."""
        for stage in self._stages:
            self._board.begin.remote(stage.name, time.time())
        return time.perf_counter()

    @contextmanager
    def own_code(self, name: str) -> Iterator[None]:
        """Report that the block calls a user's own code, which may end this process; '' is none."""
        if not name:
            yield
            return
        # The code may end this process before a call that nobody waits for has left it.
        noted = self._board.enter.remote(name, os.getpid())
        if isinstance(noted, ray.ObjectRef):
            ray.get(noted)
        yield
        self._board.leave.remote(name, os.getpid())

    def end(self, rows: pa.Table, worked: pa.Table | None = None) -> pa.Table:
        """Report that a shard is done.  worked: the rows that were worked on; None: all."""
        counts = self.counts(rows)
        for name, of_stage in counts.items():
            self._board.add.remote(name, of_stage["rows_in"], of_stage["rows_kept"], time.time())
        worked, counts = (rows, counts) if worked is None else (worked, self.counts(worked))
        count_rows(self.meter, counts)
        for stage in self._stages:
            stage.count(self.meter, worked)
        return rows

    def counts(self, rows: pa.Table) -> dict[str, dict[str, int]]:
        """Rows in, kept and dropped of each of the stages."""
        return count_drops(rows, [stage.name for stage in self._stages], self._before)
