"""SIGTERM, SIGHUP and Ctrl-C of a job: received by a thread of its own, and by no process that the job starts.

The signals are blocked in the main thread, so Ray's processes, which inherit that, never receive those that are sent to
a whole process group or control group; nor do the handlers run that Ray and Ray Train install.  A job either knows how
to save first (`stoppable`), or is interrupted where it is.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

logger = logging.getLogger("pairmill")

_KINDS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

#: Interrupts the main thread in what it waits for.
_WAKE = signal.SIGUSR2

_POLL_S = 0.2

#: Seconds within which a second signal is the first one again, sent to the group as well as to the process.
_SAME_S = 1.0

#: Seconds that an interrupted command has to clean up.
_GRACE_S = 4.0

STOPPED = "stopped; run the same command again to resume"


class Stopped(KeyboardInterrupt):
    """The job was asked to stop, and cannot save."""


class Signals:
    """The signals that ask a job to stop, for as long as the context is entered; see `receiving`."""

    def __init__(self) -> None:
        # One that is ignored, as by `nohup`, stays ignored.
        self._kinds = {kind for kind in _KINDS if signal.getsignal(kind) is not signal.SIG_IGN}
        self._main = threading.get_ident()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._receive, name="signals", daemon=True)
        self._first: float | None = None
        self._deadline: float | None = None
        self._error: BaseException = Stopped(STOPPED)
        self.saving: Callable[[], object] | None = None  #: what makes the job save and stop; None: interrupt it
        self.check: Callable[[], Exception | None] | None = None  #: asked often for an error that must end the job
        self.at_exit: Callable[[], object] = lambda: None  #: what must be done if the process is ended at once

    def __enter__(self) -> Signals:
        self._before = {kind: signal.getsignal(kind) for kind in (*self._kinds, _WAKE)}
        signal.signal(_WAKE, self._interrupted)
        self.install()
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, self._kinds)
        # Threads older than the mask may be given a signal; wherever it arrives, Python writes its number there.
        self._read, written = os.pipe()
        os.set_blocking(written, False)
        self._wakeup = written, signal.set_wakeup_fd(written, warn_on_full_buffer=False)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        # Sent again while the thread ended: with the handlers of before it would end the process.
        while signal.sigtimedwait(self._kinds, 0) is not None:
            pass
        written, before = self._wakeup
        signal.set_wakeup_fd(before)
        for descriptor in (self._read, written):
            os.close(descriptor)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def install(self) -> None:
        """Take the signals, again after a library that takes them for itself."""
        for kind in self._kinds:
            signal.signal(kind, lambda *_: None)

    def _receive(self) -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._kinds)
        while not self._ended.is_set():
            ready, _, _ = select.select([self._read], [], [], _POLL_S)
            if ready and self._kinds & set(os.read(self._read, 512)):
                self._asked_to_stop()
            if self._deadline is None and self.check is not None and (error := self.check()) is not None:
                self._interrupt(error)
            if self._deadline is not None and time.monotonic() > self._deadline:
                self._end_at_once()

    def _asked_to_stop(self) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = now
            if self.saving is None:
                self._interrupt(self._error)
                return
            try:
                self.saving()
            except Exception as error:
                self._interrupt(error)
        elif now - self._first > _SAME_S:
            self._interrupt(self._error)
            self._end_at_once()

    def _interrupt(self, error: BaseException) -> None:
        self._error = error
        self._deadline = time.monotonic() + _GRACE_S
        signal.pthread_kill(self._main, _WAKE)

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        raise self._error

    def _end_at_once(self) -> None:
        self._deadline = None
        if not _is_command:  # the process is somebody else's
            return
        self.at_exit()
        if os.isatty(2):
            os.write(2, b"\x1b[?25h")  # a live table hides the cursor
        os.write(2, f"pairmill: {self._error}\n".encode())
        os._exit(1)


_active: Signals | None = None
_is_command = False


def is_command() -> None:
    """This process is a command and may be ended: SIGTERM and SIGHUP interrupt it as Ctrl-C does."""
    global _is_command
    _is_command = True
    for kind in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(kind) is not signal.SIG_IGN:
            signal.signal(kind, _raise_stopped)


def _raise_stopped(number: int, frame: FrameType | None) -> None:
    raise Stopped(STOPPED)


@contextmanager
def receiving() -> Iterator[Signals | None]:
    """Receive the signals in a thread: those of an outer context, if there is one.

    None outside the main thread: only that one receives signals.
    """
    global _active
    if _active is not None or threading.current_thread() is not threading.main_thread() or sys.platform == "win32":
        yield _active
        return
    with Signals() as signals:
        _active = signals
        try:
            yield signals
        finally:
            _active = None


@contextmanager
def stoppable(ask: Callable[[], object], saying: str) -> Iterator[None]:
    """On a signal call `ask`, which makes the job save and stop; a second one, a second later or more, ends it at once.

    Does nothing outside the main thread: only that one receives signals.
    """

    def save() -> None:
        logger.warning("%s, then stopping; signal again to stop at once", saying)
        ask()

    with receiving() as signals:
        if signals is None:
            yield
            return
        signals.saving = save
        try:
            yield
        finally:
            signals.saving = None
