"""Connect to Ray, and stop a job on a signal: the same for curating, training and sweeps."""

from __future__ import annotations

import logging
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray.util.annotations import RayDeprecationWarning

from pairmill import faults
from pairmill.errors import UserError

logger = logging.getLogger("pairmill")


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
    if address == "local":
        # By default Ray ends a worker after a second without a task; starting one takes two seconds of a core.
        os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "60000")
        # The watcher asks whether a node is about to be taken away: a process per run, useless on one machine.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        # address="local": a plain init may join somebody else's cluster.  It also turns on token authentication:
        # without a token anyone who reaches a port of the cluster could run code here.
        common |= {"num_cpus": num_cpus, "include_dashboard": dashboard, "dashboard_host": "127.0.0.1"}
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
    with suppress(OSError):
        # Ray makes one for a local cluster, readable by everyone.
        (Path.home() / ".ray" / "auth_token").chmod(0o600)
    try:
        yield
    finally:
        ray.shutdown()


def alive_nodes() -> list[dict[str, float]]:
    """The resources of each node of the cluster."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


@contextmanager
def stoppable(ask: Callable[[], object], saying: str) -> Iterator[None]:
    """On SIGTERM and Ctrl-C call `ask`, which makes the job save and stop; a second signal ends it at once.

    Does nothing outside the main thread: only that one receives signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {kind: signal.getsignal(kind) for kind in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        for kind, handler in before.items():
            signal.signal(kind, handler)

    def stop(number: int, frame: object) -> None:
        restore()
        logger.warning("%s, then stopping; signal again to stop at once", saying)
        ask()

    for kind in before:
        signal.signal(kind, stop)
    try:
        yield
    finally:
        restore()
