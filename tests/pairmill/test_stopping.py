"""Which signals stop a job, and which processes and threads receive them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from pairmill.stopping import Stopped, receiving, stoppable


@pytest.fixture(params=[signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def kind(request: pytest.FixtureRequest) -> signal.Signals:
    found: signal.Signals = request.param
    return found


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    kinds = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
    # The tests may run under `nohup` or in the background of a shell, where some are ignored.
    given = {kind: signal.signal(kind, signal.SIG_DFL) for kind in kinds}
    before = [signal.getsignal(kind) for kind in kinds], signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield
    assert ([signal.getsignal(kind) for kind in kinds], signal.pthread_sigmask(signal.SIG_BLOCK, ())) == before
    for kind, handler in given.items():
        signal.signal(kind, handler)


def test_a_job_that_can_save_is_asked_once(kind: signal.Signals) -> None:
    asked, calls = threading.Event(), []

    def ask() -> None:
        calls.append(threading.current_thread())
        asked.set()

    with stoppable(ask, "saving"):
        os.kill(os.getpid(), kind)
        assert asked.wait(10)
        os.kill(os.getpid(), kind)  # `timeout` sends it to the process and to its group
    assert len(calls) == 1


def test_any_other_job_is_interrupted_where_it_waits(kind: signal.Signals) -> None:
    with receiving(), pytest.raises(Stopped):
        os.kill(os.getpid(), kind)
        threading.Event().wait(30)


def test_a_job_that_cannot_be_asked_is_interrupted() -> None:
    def ask() -> None:
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"), stoppable(ask, "saving"):
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(30)


def test_a_thread_that_is_older_may_receive_the_signal() -> None:
    ended, asked = threading.Event(), threading.Event()
    older = threading.Thread(target=ended.wait)
    older.start()
    with stoppable(asked.set, "saving"):
        signal.pthread_kill(older.ident or 0, signal.SIGTERM)
        assert asked.wait(10)
    ended.set()
    older.join()


def test_what_the_job_starts_does_not_receive_it() -> None:
    shown = "import signal; print(*sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())))"
    with receiving():
        child = subprocess.run([sys.executable, "-c", shown], capture_output=True, text=True, check=True)
    assert {int(signal.SIGTERM), int(signal.SIGINT), int(signal.SIGHUP)} <= set(map(int, child.stdout.split()))


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as `nohup` does
    try:
        with receiving():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.SIGHUP not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signal.signal(signal.SIGHUP, before)


def test_outside_the_main_thread_nothing_changes() -> None:
    found = []

    def enter() -> None:
        with receiving() as signals, stoppable(lambda: None, "saving"):
            found.append(signals)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [None]
