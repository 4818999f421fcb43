"""The invocations of a job in a run directory: a record of each, so that the report can separate them."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from types import TracebackType

import ray

from curation.forget.tombstones import Tombstones
from curation.plan import open_plan
from curation.plan_file import Plan
from pairmill.errors import RunDirError
from pairmill.pending import refuse_pending
from pairmill.redaction import redact
from pairmill.run_records import record_numbers, write_record
from pairmill.store import Store

_PACKAGES = ("pairmill", "ray", "pyarrow", "aiohttp", "simplejpeg", "torch", "transformers")


class Invocation:
    """The record of this invocation, kept up to date in `runs/run-NNNN.json` while it runs."""

    def __init__(self, store: Store, command: str, *, beside: bool = False) -> None:
        """beside: it leaves the product and all that it is made from as they are.

        Raises OSError if the run directory cannot be written.
        """
        self._store = store
        self.run = max(record_numbers(store), default=0) + 1
        self._segments: dict[str, list[float | None]] = {}
        self._record: dict[str, object] = {
            "run": self.run,
            "command": redact(command),
            "started_at": time.time(),
            "finished_at": None,
            **({"beside": True} if beside else {}),
            "segments": self._segments,
            "versions": {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES},
            "cluster": {k: v for k, v in ray.cluster_resources().items() if k in ("CPU", "GPU", "memory")},
        }

    def __enter__(self) -> Invocation:
        """Raises RunDirError if another job runs in the same local directory."""
        self._lock = self._store.locked()
        self._lock.__enter__()
        self._write()
        return self

    def __exit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        self._record["finished_at"] = time.time()
        self._record["failed"] = None if kind is None else kind.__name__
        self._write()
        self._lock.__exit__(None, None, None)

    @contextmanager
    def segment(self, name: str) -> Iterator[None]:
        """Note when a segment of the job begins and ends."""
        segments = self._segments
        segments[name] = [time.time(), None]
        self._write()
        try:
            yield
        finally:
            segments[name][1] = time.time()
            self._write()

    def _write(self) -> None:
        write_record(self._store, self._record)


def require_unchanged(store: Store, planned: Plan, forgotten: Tombstones) -> None:
    """Raise RunDirError if the run was extended, or rows were forgotten in it, since these were read.

    The caller must hold the run's lock, which it did not hold when it read them.
    """
    refuse_pending(store)
    if open_plan(store) != planned or not Tombstones.read(store).same_as(forgotten):
        raise RunDirError(
            "a run must stay as it is while a job starts in it",
            value=f"meanwhile {store.uri} was extended, or rows were forgotten in it",
            fix="run the same command again",
        )
