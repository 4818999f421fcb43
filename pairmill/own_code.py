"""Call a user's own code on rows: within a time limit, and with errors that name the code and the row.

    Guard("filter.callables: my_filters:keep_wide", timeout_s=600, key="filter.callables_on_error")

A function that raises, ends the interpreter (`sys.exit`), answers wrongly or takes too long is the user's to fix, so
the error says which function it was and for which row.  The row is found by halving.  Code that ends its process
(`os._exit`, a crash of a C library) cannot be caught here; the job tries its shard again a few times
(`pipelines.actors`).
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Generic, NamedTuple, TypeVar

import pyarrow as pa

from pairmill.errors import JobError, PairmillError, said_by

T = TypeVar("T")

#: Longest time limit in seconds: a week.
LONGEST_S = 7 * 86_400.0

#: Seconds that code in a C library has to return after its time limit, before its process is ended.
_GRACE_S = 30.0


class Answer(NamedTuple, Generic[T]):
    """What the code answered for some consecutive rows.  value: None for the one row that it failed on."""

    rows: pa.Table
    value: T | None


class _TooLongError(BaseException):
    """The time limit is over.  No Exception: code that catches those must not swallow it."""


class EndedError(Exception):
    """The code tried to end the interpreter."""


class _FailedError(Exception):
    """The code failed.  The message says how."""


@dataclass(frozen=True)
class Guard:
    """How one piece of a user's code is called.

    named: what it is, for messages.  timeout_s: seconds that one call may take.  key: the recipe's key that says what
    becomes of rows that it fails on; "" if they always end the job.  drop: whether they are dropped.  limit: the key of
    the time limit.
    """

    named: str
    timeout_s: float
    key: str = ""
    drop: bool = False
    limit: str = "timeout_s"

    def answers(self, work: Callable[[pa.Table], T], rows: pa.Table) -> list[Answer[T]]:
        """What `work` answers for all of `rows`: in one piece, or without the rows that it fails on.

        work: raises anything where the code fails; a PairmillError for what has nothing to do with a row, such as an
            answer that breaks a rule.
        rows: with a column `uid`, which messages name.
        Raises JobError if the code fails and its rows are not dropped, or if it takes too long; the PairmillErrors of
        `work`.
        """
        try:
            return [Answer(rows, self._called(work, rows))]
        except _FailedError as error:
            if not self.drop or not len(rows):
                raise self._error(str(error), self._where(work, rows)) from error
        if len(rows) == 1:
            return [Answer(rows, None)]
        return [answer for half in _halves(rows) for answer in self._pieces(work, half)]

    def _pieces(self, work: Callable[[pa.Table], T], rows: pa.Table) -> Iterator[Answer[T]]:
        try:
            yield Answer(rows, self._called(work, rows))
        except _FailedError:
            if len(rows) == 1:
                yield Answer(rows, None)
                return
            for half in _halves(rows):
                yield from self._pieces(work, half)

    def _where(self, work: Callable[[pa.Table], T], rows: pa.Table) -> str:
        """The first row that the code fails on, in words."""
        while len(rows) > 1:
            for half in _halves(rows):
                try:
                    self._called(work, half)
                except _FailedError:
                    rows = half
                    break
            else:
                return f"{len(rows)} rows together, and for none of them alone"
        names = rows.schema.names
        shown = [f"{name} {rows[name][0].as_py()}" for name in ("uid", "url") if name in names and len(rows)]
        return f"the row with {', '.join(shown)}" if shown else "one row"

    def _called(self, work: Callable[[pa.Table], T], rows: pa.Table) -> T:
        try:
            with self._within_limit():
                return work(rows)
        except (PairmillError, KeyboardInterrupt):
            raise
        except BaseException as error:  # a user's code may raise anything, and so may Rust libraries
            at = traceback.extract_tb(error.__traceback__)[-1]
            what = f"{type(error).__name__}: {said_by(error)}".rstrip(": ")
            raise _FailedError(f"{self.named} raised {what} ({at.filename}:{at.lineno})") from error

    def _error(self, how: str, where: str) -> JobError:
        instead = f", or set {self.key}: drop, which drops such rows" if self.key else ""
        return JobError(f"{how}, for {where}\nFix the code{instead}; then run the job again.")

    def called(self, work: Callable[[], T]) -> T:
        """What `work` returns, which is about no row.  Raises JobError if the code fails or takes too long."""
        try:
            return self._called(lambda _: work(), pa.table({}))
        except _FailedError as error:
            raise JobError(f"{error}\nFix the code; then run the job again.") from error

    def limited(self, work: Callable[[], T]) -> T:
        """What `work` returns.  Raises JobError if it takes too long, EndedError for SystemExit, and what it raises.

        A BaseException of another kind, as of a panic in Rust, becomes an EndedError too.
        """
        try:
            with self._within_limit():
                return work()
        except (Exception, KeyboardInterrupt):
            raise
        except BaseException as error:
            how = "called sys.exit" if isinstance(error, SystemExit) else f"raised {type(error).__name__}"
            raise EndedError(f"{self.named} {how}") from error

    @contextmanager
    def _within_limit(self) -> Iterator[None]:
        """End the block with a JobError after the time limit; the process, if that does not help."""

        over: list[bool] = []

        def ended(number: int, frame: FrameType | None) -> None:
            over.append(True)
            raise _TooLongError

        if threading.current_thread() is not threading.main_thread():
            # Only the main thread receives signals, and faulthandler has one timer a process.
            timer = threading.Timer(self.timeout_s, self._end_process)
            timer.daemon = True
            timer.start()
            try:
                yield
            finally:
                timer.cancel()
            return
        before = signal.signal(signal.SIGALRM, ended)
        try:
            faulthandler.dump_traceback_later(self.timeout_s + _GRACE_S, exit=True)
            signal.setitimer(signal.ITIMER_REAL, self.timeout_s)
            yield
        except _TooLongError:
            pass
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            faulthandler.cancel_dump_traceback_later()
        if over:  # what the code answered after it had caught everything counts no more
            raise JobError(
                f"{self.named} took longer than {self.timeout_s:g} s for the rows of one call\n"
                f"Fix the code, or raise {self.limit}; then run the job again."
            )

    def _end_process(self) -> None:
        faulthandler.dump_traceback(all_threads=True)
        print(f"{self.named} took longer than {self.timeout_s:g} s; its process ends", file=sys.stderr, flush=True)
        os._exit(1)


def _halves(rows: pa.Table) -> tuple[pa.Table, pa.Table]:
    middle = len(rows) // 2
    return rows.slice(0, middle), rows.slice(middle)
