"""Decode images in processes of their own, so that a codec that crashes, hangs or eats memory costs one row.

`DecoderPool` feeds `inspect_image` in N subprocesses over their standard streams.  A worker holds a few jobs, the
one it runs and the next, so that it need not wait for this process.  It runs them in order: when it dies, the
first without a reply is the one that it ran, and the others go to the next worker.

On the wire, both ways, a frame is an 8-byte length and that many bytes.  A job is the body.  A worker sends `ready`
once, and for each job the reply: a 4-byte length, the fields of `Inspected` except the image as JSON, and the image.
Never pickle: a worker has processed hostile bytes, and nothing it sends may be executed here.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import heapq
import itertools
import json
import os
import resource
import signal
import struct
import sys
import warnings
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

from curation.images.config import ImageConfig
from curation.images.inspect import Inspected, inspect_image
from curation.schema import Status
from pairmill.errors import JobError
from pairmill.faults import fault_point

#: Address space of a worker in addition to what its imports take: enough for the largest image that the default
#: `image.max_pixels` allows in the costliest format (WebP, whose decoder holds it four times), while the resident size
#: of a worker stays under 1.5 GB whatever it decodes.
JOB_BYTES = 1_300 << 20

#: What a worker adds to its niceness: on a busy node the event loop, which feeds the workers and keeps the deadlines
#: of requests, has priority.
NICENESS = 5

#: Jobs given to one worker at a time: the one it runs, and enough for the 10 ms for which the event loop is sometimes
#: busy (with one more job instead of three, workers on busy cores were idle for 4 % of their time).
JOBS_PER_WORKER = 4

#: Bodies that wait for each worker before `room` pauses fetching: a tenth of a second of work.
BACKLOG_PER_WORKER = 16

#: Consecutive workers that may die before they are ready; more is a bug, not bad luck.
_MAX_FAILED_STARTS = 3
_START_TIMEOUT_S = 120.0

#: A body or a reply should go through in one write; 1 MiB is what Linux lets an ordinary user ask for.
_PIPE_BYTES = 1 << 20

_ROOT = Path(__file__).resolve().parents[2]
_LENGTH = struct.Struct("<Q")
_FIELDS_LENGTH = struct.Struct("<I")
_MAX_REPLY_BYTES = 1 << 30
_READY = b"ready"

#: One thread per worker: the pool has as many workers as it may use cores.  By default glibc would return the memory of
#: every picture to the kernel and fault it in again for the next.
_WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OPENCV_LOG_LEVEL": "SILENT",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
    "MALLOC_MMAP_THRESHOLD_": str(16 << 20),
}


class _Job(NamedTuple):
    """Ordered by `serial`, so that a job whose worker died goes before those that came later."""

    serial: int
    data: bytes
    done: asyncio.Future[Inspected]
    again: bool = False  # a worker died of it, or was killed from outside while running it


class _Worker:
    """One subprocess and the jobs it was given, the running one first."""

    def __init__(self, process: asyncio.subprocess.Process, timeout_s: float) -> None:
        self.process = process
        self.jobs: deque[_Job] = deque()
        self.overdue: _Job | None = None  # the job for which this worker was killed
        self._timeout_s = timeout_s
        self._clock: asyncio.TimerHandle | None = None

    def give(self, job: _Job) -> None:
        assert self.process.stdin is not None
        self.jobs.append(job)
        if len(self.jobs) == 1:
            self._start_clock()
        # Not drained: at most JOBS_PER_WORKER bodies are ever on their way.
        self.process.stdin.write(_LENGTH.pack(len(job.data)))
        self.process.stdin.write(job.data)

    def finish(self) -> _Job:
        """The job that was replied to; the next has started."""
        if not self.jobs:
            raise _BrokenReply
        job = self.jobs.popleft()
        self._start_clock()
        return job

    def _start_clock(self) -> None:
        self.stop_clock()
        if self.jobs:
            self._clock = asyncio.get_running_loop().call_later(self._timeout_s, self._expire)

    def stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()

    def _expire(self) -> None:
        self.overdue = self.jobs[0]
        self.kill()

    def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()


class DecoderPool:
    """`inspect_image` in `workers` subprocesses, for one event loop.

        async with DecoderPool(config, workers=4, blocked=frozenset()) as pool:
            inspected = await pool.inspect(body)

    The subprocesses are replaced when they die, and end with `close()` or with this process.
    """

    def __init__(self, config: ImageConfig, *, workers: int, blocked: frozenset[str] = frozenset()) -> None:
        self._config = config
        self._blocked = blocked
        self._wanted = workers
        self._serials = itertools.count()
        self._waiting: list[_Job] = []  # heap
        self._ready: list[_Worker] = []
        self._keepers: list[asyncio.Task[None]] = []
        self._failed_starts = 0
        self._roomy = asyncio.Event()
        self._started = asyncio.Event()  # a worker is ready, or none will ever be
        self._closed = False

    async def __aenter__(self) -> DecoderPool:
        self._start_workers()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that are ready."""
        return [worker.process.pid for worker in self._ready]

    async def inspect(self, data: bytes) -> Inspected:
        """`inspect_image(data)`; decode_timeout if its worker hung, decoder_crash if two died of it.

        Raises RuntimeError after `close()`, JobError if workers cannot be started at all.
        """
        # Here and not in the worker: a block list of millions of digests should not be held once per worker.
        if self._blocked and (digest := hashlib.sha256(data).hexdigest()) in self._blocked:
            return Inspected(Status.HASH_BLOCKED, sha256=digest)
        if self._closed:
            raise RuntimeError("the decoder pool is closed")
        self._start_workers()
        job = _Job(next(self._serials), data, asyncio.get_running_loop().create_future())
        heapq.heappush(self._waiting, job)
        self._dispatch()
        return await job.done

    async def ready(self) -> None:
        """Wait until a worker can take a job, or until starting them has failed."""
        await self._started.wait()

    async def room(self) -> None:
        """Wait while so many bodies are queued for workers that fetching more would only fill memory."""
        while len(self._waiting) > BACKLOG_PER_WORKER * self._wanted:
            self._roomy.clear()
            await self._roomy.wait()

    def _start_workers(self) -> None:
        if not self._keepers:
            self._keepers = [asyncio.create_task(self._keep_worker()) for _ in range(self._wanted)]

    async def close(self) -> None:
        """End the workers; callers that still wait get `asyncio.CancelledError`.  May be called again."""
        self._closed = True
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        for job in self._waiting:
            job.done.cancel()
        self._waiting.clear()

    def _dispatch(self) -> None:
        while self._waiting and self._ready:
            worker = min(self._ready, key=lambda worker: len(worker.jobs))
            if len(worker.jobs) >= JOBS_PER_WORKER:
                return
            job = heapq.heappop(self._waiting)
            if len(self._waiting) <= BACKLOG_PER_WORKER * self._wanted:
                self._roomy.set()
            if not job.done.done():  # else its caller was cancelled
                worker.give(job)

    async def _keep_worker(self) -> None:
        """Run one worker after another until cancelled."""
        try:
            while self._failed_starts < _MAX_FAILED_STARTS:
                worker = await self._start()
                try:
                    await self._serve(worker)
                except (asyncio.IncompleteReadError, asyncio.TimeoutError, ConnectionError, _BrokenReply):
                    pass
                finally:
                    await self._retire(worker)
                self._dispatch()
            self._fail("each died while it started; standard error says why")
        except Exception as error:
            self._fail(f"{type(error).__name__}: {error}")
            raise

    def _fail(self, why: str) -> None:
        self._closed = True
        self._started.set()
        for job in self._waiting:
            if not job.done.done():
                job.done.set_exception(JobError(f"decoder processes cannot be run: {why}"))
        self._waiting.clear()

    async def _start(self) -> _Worker:
        path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "curation.images.decoder", self._config.model_dump_json()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=_ROOT,  # -m puts the working directory first on the path, where there may be another `curation`
            env={**os.environ, **_WORKER_ENVIRONMENT, "PYTHONPATH": path},
            limit=4 << 20,  # a reply is read in one piece
        )
        return _Worker(process, self._config.decode_timeout_s)

    async def _serve(self, worker: _Worker) -> None:
        """Give jobs to a worker and pass on its replies, until its output ends."""
        assert worker.process.stdout is not None
        if await asyncio.wait_for(_read_frame(worker.process.stdout), _START_TIMEOUT_S) != _READY:
            raise _BrokenReply
        self._failed_starts = 0
        self._ready.append(worker)
        self._started.set()
        self._dispatch()
        while True:
            inspected = _unpack(await _read_frame(worker.process.stdout))
            job = worker.finish()
            self._dispatch()
            if not job.done.done():
                job.done.set_result(inspected)

    async def _retire(self, worker: _Worker) -> None:
        """Make sure that a worker is gone, blame the job it ran, and take back the others."""
        worker.stop_clock()
        worker.kill()
        if worker in self._ready:
            self._ready.remove(worker)
        else:
            self._failed_starts += 1
        jobs = list(worker.jobs)
        if self._closed:
            for job in jobs:
                job.done.cancel()
        else:
            # If the reply to the overdue job was being sent when its worker was killed, no job is to blame.
            if jobs and worker.overdue in (None, jobs[0]):
                running = jobs.pop(0)
                status = Status.DECODE_TIMEOUT if worker.overdue else Status.DECODER_CRASH
                if status is Status.DECODER_CRASH and not running.again:
                    # Bytes that crash a codec crash it twice; other causes do not hit the same image twice.
                    heapq.heappush(self._waiting, running._replace(again=True))
                elif not running.done.done():
                    running.done.set_result(_lost(running, status, self._config))
            for job in jobs:
                heapq.heappush(self._waiting, job)
        await worker.process.wait()
        assert worker.process.stdin is not None
        worker.process.stdin.close()


class _BrokenReply(Exception):
    """A worker broke the protocol: treated as a crash."""


def _lost(job: _Job, status: Status, config: ImageConfig) -> Inspected:
    digest = hashlib.sha256(job.data).hexdigest()
    if status is Status.DECODE_TIMEOUT:
        return Inspected(status, f"not decoded after {config.decode_timeout_s:g} s", sha256=digest)
    return Inspected(status, "the process that decoded it died", sha256=digest)


async def _read_frame(stream: asyncio.StreamReader) -> bytes:
    (length,) = _LENGTH.unpack(await stream.readexactly(_LENGTH.size))
    if length > _MAX_REPLY_BYTES:
        raise _BrokenReply
    return await stream.readexactly(length)


def _pack(inspected: Inspected) -> bytes:
    texts = {"status": inspected.status.value, "colours": inspected.colours.hex(), "image": None}
    fields = json.dumps({**inspected._asdict(), **texts}).encode()
    return b"".join((_FIELDS_LENGTH.pack(len(fields)), fields, inspected.image))


def _unpack(frame: bytes) -> Inspected:
    try:
        (length,) = _FIELDS_LENGTH.unpack_from(frame)
        start = _FIELDS_LENGTH.size
        fields = json.loads(frame[start : start + length])
        fields["status"], fields["colours"] = Status(fields["status"]), bytes.fromhex(fields["colours"])
        return Inspected(**{**fields, "image": frame[start + length :]})
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise _BrokenReply from error


def main() -> None:
    """What a worker runs: jobs from standard input, replies to standard output, until the input ends."""
    config = ImageConfig.model_validate_json(sys.argv[1])
    replies_fd = os.dup(1)
    os.dup2(2, 1)  # a library that prints must not break the protocol
    for pipe in (0, replies_fd):
        with contextlib.suppress(AttributeError, OSError):  # Linux only, and up to a limit per user
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    _contain()
    with open(0, "rb", closefd=False) as jobs, open(replies_fd, "wb") as replies:
        _write_frame(replies, _READY)
        while length := jobs.read(_LENGTH.size):
            data = jobs.read(*_LENGTH.unpack(length))
            # If the parent dies while a codec hangs, only this timer ends the process.
            signal.setitimer(signal.ITIMER_REAL, 2 * config.decode_timeout_s)
            fault_point("decode.job")
            inspected = inspect_image(data, config, frozenset())
            signal.setitimer(signal.ITIMER_REAL, 0)
            _write_frame(replies, _pack(inspected))


def _contain() -> None:
    """Limits of a process that handles hostile bytes, and its lower priority."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    statm = Path("/proc/self/statm")
    if statm.exists():
        limit = int(statm.read_text().split()[0]) * resource.getpagesize() + JOB_BYTES
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (limit if hard < 0 else min(limit, hard), hard))
    os.nice(NICENESS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it then closes our input
    warnings.simplefilter("ignore")  # Pillow warns about odd files; the row's status reports them


def _write_frame(stream: BinaryIO, body: bytes) -> None:
    stream.write(_LENGTH.pack(len(body)))
    stream.write(body)
    stream.flush()


if __name__ == "__main__":
    main()
