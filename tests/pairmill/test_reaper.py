"""Which processes are of a cluster: those that write to the files of its session, whatever they call themselves."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pairmill import reaper

#: More than a process number is here, and another one in each process of the tests: those of one end each other.
STARTER = 10_000_000 + 2 * os.getpid()

WAITS = "import sys; print('ready', flush=True); sys.stdin.read()"


@pytest.fixture
def session(tmp_path: Path) -> Path:
    folder = tmp_path / f"session_2026-01-01_00-00-00_000000_{STARTER}" / "logs"
    folder.mkdir(parents=True)
    (folder / "a.log").touch()
    return folder


class Begun:
    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []

    def __call__(self, code: str = WAITS, **options: object) -> subprocess.Popen[bytes]:
        one = subprocess.Popen(  # type: ignore[call-overload]
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options
        )
        self.processes.append(one)
        assert one.stdout.readline() == b"ready\n"
        return one  # type: ignore[no-any-return]


@pytest.fixture
def begun() -> Iterator[Begun]:
    begun = Begun()
    yield begun
    for one in begun.processes:
        one.kill()
        one.communicate()


def test_the_writers_of_a_session_s_logs_are_ended(session: Path, begun: Begun) -> None:
    with (session / "a.log").open("ab") as log:
        direct = begun(stderr=log)
        inherited = begun(stderr=log, start_new_session=True, env={})
    reaper.end_cluster(STARTER)
    assert (direct.wait(10), inherited.wait(10)) == (-9, -9)


def test_all_other_processes_stay(session: Path, begun: Begun, tmp_path: Path) -> None:
    other = tmp_path / f"session_2026-01-01_00-00-00_000000_{STARTER + 1}"
    other.mkdir()
    with (
        (session / "a.log").open("rb") as log,
        (other / "a.log").open("wb") as theirs,
        (tmp_path / "b").open("wb") as b,
    ):
        stay = [begun(stderr=theirs), begun(stderr=b), begun(pass_fds=[log.fileno()])]
    reaper.end_cluster(STARTER)
    assert [one.poll() for one in stay] == [None, None, None]


def test_the_watcher_acts_when_its_parent_is_gone(session: Path, begun: Begun) -> None:
    with (session / "a.log").open("ab") as log:
        one = begun(stderr=log)
    command = [sys.executable, "-I", "-S", str(reaper.__file__), str(STARTER)]
    watcher = subprocess.Popen(command, stdin=subprocess.PIPE, env={})
    assert one.poll() is None
    watcher.communicate(timeout=20)  # closes its stdin, as the parent's end does
    assert watcher.returncode == 0 and one.wait(10) == -9
