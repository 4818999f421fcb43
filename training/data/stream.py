"""Bundles read ahead by Ray tasks, and batches assembled ahead of the step in a thread.

A task reads, decodes and tokenizes one bundle, on any node that has cores for it, and leaves it in the object store.
At most `data.look_ahead` bundles of a worker are being read or are ready, so memory does not grow with the dataset; a
task whose process dies is run again by Ray and yields the same bundle.

Tasks and not a Ray Data pipeline: its executor is a thread of the process that reads, and in a training worker that
thread takes 40 % of a core and of the interpreter's lock away from the step (2 cores, Ray 2.60).
"""

from __future__ import annotations

import hashlib
import pickle
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from types import TracebackType
from typing import Any

import pyarrow as pa
import ray
from ray import cloudpickle

from pairmill.errors import IntegrityError, JobError
from pairmill.registry import look_in
from pairmill.worker_errors import raised_by
from training.data.batches import Batch, assemble, read_here
from training.data.bundle import Bundle, Reader, from_table, to_table
from training.data.config import DataConfig
from training.data.cursor import BundleSpec, ReadingPlan, rank_bundles
from training.data.step_texts import Shorten, StepTexts

#: How often a bundle is read again after the process that read it died, or its storage failed.
_RETRIES = 4


@ray.remote(max_retries=_RETRIES, retry_exceptions=[OSError])  # type: ignore[untyped-decorator]
def _read(reader: _Shared, spec: BundleSpec) -> pa.Table:
    return to_table(_reader(reader)(spec))


@dataclass(frozen=True)
class _Shared:
    """A pickled reader in the object store.  Every worker has one; those of a run are equal by their content.

    path: where the modules of own text transforms are.
    """

    content: str
    reference: Any = field(compare=False)
    path: tuple[str, ...] = field(compare=False)


@lru_cache(maxsize=2)  # a process reads many bundles; making a tokenizer takes longer than some of them
def _reader(shared: _Shared) -> Reader:
    look_in(shared.path)
    reader: Reader = pickle.loads(ray.get(shared.reference))
    return reader


def read_with_ray(
    specs: Iterator[BundleSpec], reader: Reader, config: DataConfig, *, name: str = "training"
) -> Iterator[tuple[BundleSpec, Bundle]]:
    """These bundles, in order, read ahead on the cluster.  Needs a connection to Ray.

    name: of the run, for the names of its tasks in dashboards.
    Raises what a reader raised, wrapped by Ray.  Closing the generator cancels what is on its way.
    """
    pickled = cloudpickle.dumps(reader)
    shared = _Shared(hashlib.sha256(pickled).hexdigest(), ray.put(pickled), tuple(sys.path))
    # "DEFAULT": anywhere.  Under Tune a task inherits its worker's placement group, which has no room for readers.
    read = _read.options(name=f"{name}: read", num_cpus=config.reader_cpus, scheduling_strategy="DEFAULT")
    ahead: deque[tuple[BundleSpec, Any]] = deque()
    try:
        for spec in specs:
            ahead.append((spec, read.remote(shared, spec)))
            if len(ahead) == config.look_ahead:
                done, found = ahead.popleft()
                yield done, from_table(ray.get(found), reader.transform.height, reader.transform.width)
    finally:
        for _, found in ahead:
            ray.cancel(found)


class Batches:
    """Iterator over a worker's batches that are made ahead of the step.

    waited_s: seconds that `next` has waited so far, for the data-wait share.
    Use as a context manager, or call `close`: it ends the thread and the pipeline.
    """

    def __init__(self, made: Iterator[Batch], progress: _Progress, *, timeout_s: float, ahead: int) -> None:
        self.waited_s = 0.0
        self._progress, self._timeout_s = progress, timeout_s
        self._queue: queue.Queue[Batch | BaseException] = queue.Queue(ahead)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(made,), name="batches", daemon=True)
        self._thread.start()

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> Batch:
        """The next batch.  Raises JobError after `data.timeout_s` of silence, and what a reader raised as it is."""
        start = time.monotonic()
        try:
            made = self._await(start)
        finally:
            self.waited_s += time.monotonic() - start
        if isinstance(made, BaseException):
            self.close()
            raise made
        return made

    def _await(self, start: float) -> Batch | BaseException:
        # Every bundle that arrives is a sign of life: the first batch may take many of them.
        while True:
            silent_since = max(start, self._progress.at)
            left = silent_since + self._timeout_s - time.monotonic()
            try:
                return self._queue.get(timeout=max(0.001, left))
            except queue.Empty:
                if self._progress.at <= silent_since:
                    break
        awaited = self._progress.describe()
        self.close()
        raise JobError(
            f"the readers sent nothing for {self._timeout_s:g} s (data.timeout_s); awaited: {awaited}\n"
            "fix: check that storage answers and that data.reader_cpus cores are free for a reader, then run it again"
        )

    def close(self) -> None:
        """End the thread, and with it the pipeline; waits a few seconds for it."""
        self._stop.set()
        while not self._queue.empty():
            self._queue.get_nowait()
        self._thread.join(timeout=5.0)

    def __enter__(self) -> Batches:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, made: Iterator[Batch]) -> None:
        try:
            for batch in made:
                if not self._put(batch):
                    break
        except BaseException as error:
            self._put(raised_by(error) or error)
        finally:
            self._progress.close()

    def _put(self, item: Batch | BaseException) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False


class _Progress:
    """Passes bundles on and knows which one is being waited for, and since when."""

    def __init__(self, stream: Iterator[tuple[BundleSpec, Bundle]], specs: Iterator[BundleSpec]) -> None:
        self._stream, self._specs = stream, specs
        self._awaited: BundleSpec | None = None
        self.at = time.monotonic()

    def __iter__(self) -> _Progress:
        return self

    def __next__(self) -> tuple[BundleSpec, Bundle]:
        self._awaited, self.at = next(self._specs), time.monotonic()
        found = next(self._stream)
        if found[0] != self._awaited:
            raise IntegrityError(f"bundles must come in the planned order: {found[0]}, not {self._awaited}")
        self._awaited, self.at = None, time.monotonic()
        return found

    def describe(self) -> str:
        spec = self._awaited
        if spec is None:
            return "a batch to be assembled"
        pieces = ", ".join(str(span.piece) for span in spec.spans)
        return f"bundle {spec.number} of lane {spec.lane}, dataset {spec.dataset}, epoch {spec.epoch} (pieces {pieces})"

    def close(self) -> None:
        close = getattr(self._stream, "close", None)
        if close is not None:
            close()


def batches(
    plan: ReadingPlan,
    reader: Reader,
    config: DataConfig,
    *,
    rank: int = 0,
    world: int = 1,
    start_batch: int = 0,
    pad_id: int = 0,
    length: int | None = None,
    shorten: Shorten | None = None,
    name: str = "training",
    with_ray: bool = True,
) -> Batches:
    """A worker's batches, without end, from global batch `start_batch` on; see `Batches` and `batches.assemble`.

    shorten: of texts, by a curriculum.
    name: of the run, for dashboards.
    with_ray: read on the cluster; otherwise in a thread of this process.
    """
    if with_ray:
        stream = read_with_ray(rank_bundles(plan, rank, world, start_batch), reader, config, name=name)
    else:
        stream = read_here(plan, reader, rank=rank, world=world, start_batch=start_batch)
    progress = _Progress(stream, rank_bundles(plan, rank, world, start_batch))
    made = assemble(
        progress,
        plan,
        rank=rank,
        world=world,
        start_batch=start_batch,
        pad_id=pad_id,
        length=length,
        texts=StepTexts(shorten, config.slot_draw(plan.seed)),
    )
    return Batches(made, progress, timeout_s=config.timeout_s, ahead=config.queue_batches)
