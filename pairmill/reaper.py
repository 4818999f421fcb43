"""End the processes of a local Ray cluster, wherever they are in the tree of processes.

Ray's servers end with the process that started them, but its agents and workers notice only after seconds, and some not
at all.  They overwrite their command line and environment, and leave their parents; but all of them have log files of
their session open, whose folder `session_<time>_<process>` names the process that started the cluster.

Also a program, which imports nothing of ours to start at once: `reaper.py PROCESS` waits until its stdin is closed, as
it is when its parent PROCESS has ended in whatever way, and then ends what is left of its cluster.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from contextlib import suppress

_WITHIN_S = 5.0


def end_cluster(starter: int) -> None:
    """Kill every process of the cluster that the process `starter` started, and return when none is left.

    Gives up after 5 s.  Does nothing where there is no /proc.
    """
    session = re.compile(rf"/session_[^/]*_{starter}/")
    until = time.monotonic() + _WITHIN_S
    while (found := _writing_to(session, but={starter, os.getpid()})) and time.monotonic() < until:
        for process in found:
            with suppress(OSError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.01)


def _writing_to(path: re.Pattern[str], *, but: set[int]) -> list[int]:
    """The processes that have a file of such a path open to write; one that has ended has none."""
    found = []
    names = os.listdir("/proc") if os.path.isdir("/proc") else []
    for process in (int(name) for name in names if name.isdecimal()):
        with suppress(OSError):  # it ended, or is another user's
            files = os.listdir(f"/proc/{process}/fd") if process not in but else []
            if any(_writes(process, file, path) for file in files):
                found.append(process)
    return found


def _writes(process: int, file: str, path: re.Pattern[str]) -> bool:
    try:
        if not path.search(os.readlink(f"/proc/{process}/fd/{file}")):
            return False
        with open(f"/proc/{process}/fdinfo/{file}", encoding="ascii") as info:
            flags = next(line.split()[1] for line in info if line.startswith("flags:"))
    except OSError:  # it was closed
        return False
    return int(flags, 8) & os.O_ACCMODE != os.O_RDONLY  # who reads a log is not of the cluster


def main() -> None:
    """Wait for the end of the parent, then clean up after it."""
    for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(kind, signal.SIG_IGN)
    sys.stdin.buffer.read()
    end_cluster(int(sys.argv[1]))


if __name__ == "__main__":
    main()
