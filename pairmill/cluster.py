"""Connect to Ray, and end what was started for it: the same for curating, training and sweeps."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants
from ray.util.annotations import RayDeprecationWarning

from pairmill import faults, reaper
from pairmill.errors import JobError, UserError
from pairmill.stopping import Signals, receiving

#: Makes Ray name this machine 127.0.0.1, so that its servers, agents and workers listen there and nowhere else.
_ENV_LOOPBACK = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR

#: Watchers that wait for the end of this process.
_watchers: list[subprocess.Popen[bytes]] = []

#: The servers without which a local cluster does not work, as the system names their processes.
_SERVERS = ("gcs_server", "raylet")


@contextmanager
def connected(address: str | None, *, num_cpus: int | None, dashboard: bool) -> Iterator[None]:
    """A connection to the cluster for as long as the job runs; one that was there before is used and left open.

    address: the recipe's.  None: RAY_ADDRESS, which a submitted job has, else a local cluster of our own with
    `num_cpus` cores (None: all) and, if `dashboard`, a dashboard on 127.0.0.1.
    """
    if ray.is_initialized():
        yield
        return
    # A CPU-only task must not see the GPUs that other actors own.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray's announcements are for its programmers, not for our users.
    os.environ.setdefault("RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS", "0")
    warnings.filterwarnings("ignore", category=RayDeprecationWarning)
    common: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.WARNING,
        "runtime_env": {"env_vars": faults.environment()} if faults.environment() else None,
    }
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    with receiving() as signals, ExitStack() as ending:
        if address == "local":
            # By default Ray ends a worker after a second without a task; starting one takes two seconds of a core.
            os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "60000")
            # The watcher asks whether a node is about to be taken away: a process per run, useless on one machine.
            os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
            # address="local": a plain init may join somebody else's cluster.  It also turns on token authentication:
            # without a token anyone who reaches a port of the cluster could run code here.
            common |= {"num_cpus": num_cpus, "include_dashboard": dashboard, "dashboard_host": "127.0.0.1"}
            ending.enter_context(_local_cluster(signals))
        else:
            ending.callback(ray.shutdown)
        try:
            ray.init(address=address, **common)
        except (ConnectionError, ValueError, RuntimeError) as error:
            if address == "local":
                raise
            raise UserError(
                "the Ray address (cluster.address, compute.address or RAY_ADDRESS) must be that of a running cluster",
                value=f"{address}: {str(error).strip().splitlines()[0] if str(error).strip() else repr(error)}",
                fix="correct the address, or leave it out to use this machine",
            ) from error
        if signals is not None:
            signals.install()  # Ray has set its own
            if address == "local":
                signals.check = _ServersAlive().check
        with suppress(OSError):
            # Ray makes one for a local cluster, readable by everyone.
            (Path.home() / ".ray" / "auth_token").chmod(0o600)
        yield


@contextmanager
def _local_cluster(signals: Signals | None) -> Iterator[None]:
    """What a cluster of our own needs around `ray.init`; on leaving it, or if this process dies, nothing is left."""
    command = [sys.executable, "-I", "-S", reaper.__file__, str(os.getpid())]
    watcher = subprocess.Popen(command, stdin=subprocess.PIPE, env={}, start_new_session=True)
    # Ray read the variable when it was imported; its processes read it again.
    before, ray_constants.ENABLE_RAY_CLUSTER = (os.environ.get(_ENV_LOOPBACK), ray_constants.ENABLE_RAY_CLUSTER), False
    os.environ[_ENV_LOOPBACK] = "0"
    if signals is not None:
        signals.at_exit = lambda: reaper.end_cluster(os.getpid())
    keep = True
    try:
        yield
        keep = False
    finally:
        try:
            _shut_down(signals)
        finally:
            value, ray_constants.ENABLE_RAY_CLUSTER = before
            os.environ.pop(_ENV_LOOPBACK) if value is None else os.environ.update({_ENV_LOOPBACK: value})
            if keep:
                # Ray may be half started, and what is left of it is found when this process has ended.
                _watchers.append(watcher)
            else:
                watcher.communicate()  # closes its stdin: it ends what is left


def _shut_down(signals: Signals | None) -> None:
    """`ray.shutdown` of our own cluster, without its wait of a second for each process that does not heed SIGTERM."""
    if signals is not None:
        signals.check = None
    done = threading.Event()

    def end() -> None:
        while ray.is_initialized() and not done.is_set():
            time.sleep(0.01)
        reaper.end_cluster(os.getpid())

    thread = threading.Thread(target=end, daemon=True)
    thread.start()
    try:
        ray.shutdown()
    finally:
        done.set()
        thread.join()


class _ServersAlive:
    """Whether the servers that this process has started still run; Ray itself waits a minute for one that is gone."""

    def __init__(self) -> None:
        names = os.listdir("/proc") if os.path.isdir("/proc") else []
        found = {int(name): _stat(name) for name in names if name.isdecimal()}
        own = {process: stat for process, stat in found.items() if stat and stat[2] == os.getpid()}
        self._servers = {process: stat[0] for process, stat in own.items() if stat[0] in _SERVERS}

    def check(self) -> JobError | None:
        """The error of a job whose cluster is broken."""
        for process, name in self._servers.items():
            stat = _stat(process)
            if stat is None or stat[1] in "ZX":
                return JobError(f"Ray's process {name} was killed or crashed; run the same command again to resume")
        return None


def _stat(process: int | str) -> tuple[str, str, int] | None:
    """Name, state and parent of a process; None if it is gone."""
    try:
        with open(f"/proc/{process}/stat", encoding="ascii", errors="replace") as stat:
            name, _, rest = stat.read().partition("(")[2].rpartition(")")
    except OSError:
        return None
    state, parent = rest.split()[:2]
    return name, state, int(parent)


def alive_nodes() -> list[dict[str, float]]:
    """The resources of each node of the cluster."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
