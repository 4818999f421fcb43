"""Live progress: what each stage has done so far, as a table on a terminal and as plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import ray
from rich.console import Console
from rich.live import Live
from rich.table import Table

logger = logging.getLogger("pairmill")

_TERMINAL_PERIOD_S = 0.5
_PLAIN_PERIOD_S = 10.0


@dataclass
class Count:
    """What one stage has done: rows seen and kept, and when it began (seconds since the epoch)."""

    rows: int = 0
    kept: int = 0
    began: float = 0.0
    latest: float = 0.0

    def rows_per_second(self) -> float:
        """Rows a second over the time the stage has been working."""
        return self.rows / max(self.latest - self.began, 1e-3)

    def images_per_second(self) -> float:
        """Rows a second that were kept."""
        return self.kept / max(self.latest - self.began, 1e-3)


class Board:
    """Counts by stage, reported by the stages and read by the driver.  In a job it is one Ray actor without rows."""

    def __init__(self) -> None:
        self._counts: dict[str, Count] = {}
        self._notes: dict[str, str] = {}
        self._own: dict[int, str] = {}

    def begin(self, stage: str, when: float) -> None:
        """A worker of `stage` starts a shard."""
        count = self._counts.setdefault(stage, Count(began=when, latest=when))
        count.began = min(count.began, when)

    def add(self, stage: str, rows: int, kept: int, when: float) -> None:
        """A worker of `stage` has done a shard."""
        count = self._counts.setdefault(stage, Count(began=when, latest=when))
        count.rows += rows
        count.kept += kept
        count.latest = max(count.latest, when)

    def warn(self, topic: str, text: str) -> None:
        """Something an operator should see; an empty text withdraws it."""
        if text:
            self._notes[topic] = text
        else:
            self._notes.pop(topic, None)

    def enter(self, name: str, process: int) -> None:
        """A worker calls a user's own code, which may end its process."""
        self._own[process] = name

    def leave(self, name: str, process: int) -> None:
        """The code has returned."""
        if self._own.get(process) == name:
            del self._own[process]

    def own_code(self) -> list[str]:
        """The own code that has been called and has not returned."""
        return sorted(set(self._own.values()))

    def read(self) -> tuple[dict[str, Count], dict[str, str]]:
        """The counts and the warnings as they are now."""
        return dict(self._counts), dict(self._notes)


@contextmanager
def watched(rows_in: int, *, quiet: bool = False) -> Iterator[ray.actor.ActorHandle]:
    """A board, shown while the job runs."""
    # The board dies with the driver; losing its node costs only the live counts.
    board = ray.remote(Board).options(num_cpus=0, max_restarts=-1).remote()
    stop = threading.Event()
    show = _show_live if sys.stderr.isatty() and not quiet else _show_lines
    thread = threading.Thread(target=show, args=(board, rows_in, stop), daemon=True)
    thread.start()
    try:
        yield board
    finally:
        stop.set()
        thread.join(timeout=5)
        ray.kill(board)


def _read(board: ray.actor.ActorHandle) -> tuple[dict[str, Count], dict[str, str]] | None:
    try:
        return ray.get(board.read.remote(), timeout=5)  # type: ignore[no-any-return]
    except (ray.exceptions.RayError, ray.exceptions.GetTimeoutError):
        return None


def _show_live(board: ray.actor.ActorHandle, rows_in: int, stop: threading.Event) -> None:
    with Live(console=Console(stderr=True), refresh_per_second=4, transient=True) as live:
        while not stop.wait(_TERMINAL_PERIOD_S):
            if (seen := _read(board)) is not None:
                live.update(_table(*seen, rows_in))


def _table(counts: Mapping[str, Count], notes: Mapping[str, str], rows_in: int) -> Table:
    table = Table(caption="\n".join(notes.values()) or None, caption_style="bold red")
    for heading in ("stage", "rows", "kept", "dropped", "rows/s", "images/s", "ETA"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    for stage, count in counts.items():
        table.add_row(
            stage,
            f"{count.rows:,}",
            f"{count.kept:,}",
            f"{count.rows - count.kept:,}",
            f"{count.rows_per_second():,.0f}",
            f"{count.images_per_second():,.0f}",
            _eta(count, rows_in),
        )
    return table


def _show_lines(board: ray.actor.ActorHandle, rows_in: int, stop: threading.Event) -> None:
    shown: dict[str, int] = {}
    while not stop.wait(_PLAIN_PERIOD_S):
        seen = _read(board)
        if seen is None:
            continue
        for stage, count in seen[0].items():
            if shown.get(stage) == count.rows:
                continue
            shown[stage] = count.rows
            logger.info(
                "%s: %d rows, %d kept, %d dropped, %.0f rows/s, %.0f images/s, ETA %s",
                *(stage, count.rows, count.kept, count.rows - count.kept),
                *(count.rows_per_second(), count.images_per_second(), _eta(count, rows_in)),
            )
        for note in seen[1].values():
            logger.warning("%s", note)


def _eta(count: Count, rows_in: int) -> str:
    if count.rows >= rows_in:
        return "done"
    if not count.rows:
        return "—"
    left = (rows_in - count.rows) / count.rows_per_second()
    return time.strftime("%H:%M:%S", time.gmtime(left)) if left < 86_400 else f"{left / 86_400:.1f} days"
