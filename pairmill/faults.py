"""Named fault points: places where a test makes a running job fail from outside.

    PAIRMILL_FAULTS="commit.images.before_rename:kill@3;fetch.request:raise@10"   PAIRMILL_FAULTS_DIR=/some/folder

Each entry is `point:action@n`: the action happens at the n-th pass through the point, counted over all processes of the
job (the folder holds the counters), and at most once, so that a restarted actor is not killed forever.  A point may be
armed several times.

Actions: kill (SIGKILL this process), kill-driver (SIGKILL the process that runs the job), raise (`InjectedFault`),
stall (sleep an hour), disk-full (`OSError(ENOSPC)`).  An unarmed point costs one falsy test.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path
from typing import NamedTuple

ENV_FAULTS = "PAIRMILL_FAULTS"
ENV_DIR = "PAIRMILL_FAULTS_DIR"
ENV_DRIVER = "PAIRMILL_DRIVER_PID"
ACTIONS = ("kill", "kill-driver", "raise", "stall", "disk-full")


class InjectedFault(RuntimeError):
    """Raised by an armed fault point with the action `raise`."""


class _Fault(NamedTuple):
    action: str
    at_pass: int
    counter: Path


def _parse(spec: str, folder: str) -> dict[str, list[_Fault]]:
    armed: dict[str, list[_Fault]] = {}
    for entry in filter(None, (part.strip() for part in spec.split(";"))):
        point, _, rest = entry.partition(":")
        action, _, at_pass = rest.partition("@")
        if action not in ACTIONS or not at_pass.isdigit():
            raise ValueError(f"{ENV_FAULTS}: an entry must be point:action@n, action one of {ACTIONS}, got {entry!r}")
        armed.setdefault(point, []).append(
            _Fault(action, int(at_pass), Path(folder) / f"{point.replace('/', '|')}.passes")
        )
    return armed


_armed = _parse(os.environ.get(ENV_FAULTS, ""), os.environ.get(ENV_DIR, "."))


def fault_point(name: str) -> None:
    """Fail here if a test armed `name`; otherwise do nothing."""
    if _armed and name in _armed:
        _pass(_armed[name], name)


def environment() -> dict[str, str]:
    """The variables that arm the worker processes of this job as this process is armed (empty when unarmed)."""
    found = {name: os.environ[name] for name in (ENV_FAULTS, ENV_DIR) if name in os.environ}
    # A trial of a sweep starts workers of its own, and its sweep's driver stays the driver.
    return {**found, ENV_DRIVER: os.environ.get(ENV_DRIVER, str(os.getpid()))} if found else {}


def _pass(faults: list[_Fault], name: str) -> None:
    # An O_APPEND write of one byte is atomic, and the position after it is this pass's number among all processes.
    counter = os.open(faults[0].counter, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(counter, b".")
        passed = os.lseek(counter, 0, os.SEEK_CUR)
    finally:
        os.close(counter)
    for fault in faults:
        if passed == fault.at_pass:
            _fail(fault, name, passed)


def _fail(fault: _Fault, name: str, passed: int) -> None:
    if fault.action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault.action == "kill-driver":
        # The driver is armed by its own environment, which does not name it as the driver.
        os.kill(int(os.environ.get(ENV_DRIVER, os.getpid())), signal.SIGKILL)
    elif fault.action == "raise":
        raise InjectedFault(f"fault point {name}, pass {passed}")
    elif fault.action == "disk-full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
    else:
        time.sleep(3600)
