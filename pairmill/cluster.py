"""Connect to Ray, and hear when the job is asked to stop: the same for curating, training and sweeps."""

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

logger = logging.getLogger("pairmill")


@contextmanager
def connected(address: str | None, *, num_cpus: int | None, dashboard: bool) -> Iterator[None]:
    """A connection to the cluster for as long as the job runs; leaves alone one that was there before.

    address: the recipe's; null: RAY_ADDRESS, which a submitted job has, else a local cluster of our own with `num_cpus`
    cores (null: all) and, on 127.0.0.1, a dashboard if one is asked for.
    """
    if ray.is_initialized():
        yield
        return
    # A CPU-only task must not see the GPUs that other actors own.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray's announcements are for those who write against it.
    os.environ.setdefault("RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS", "0")
    warnings.filterwarnings("ignore", category=RayDeprecationWarning)
    common: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.WARNING,
        "runtime_env": {"env_vars": faults.environment()} if faults.environment() else None,
    }
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    if address == "local":
        # By default a worker that waits a second for a task is ended; starting one takes two seconds of a core.
        os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "60000")
        # It asks whether another node is about to be taken away: a process a run, for nothing on one machine.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        # address="local": a plain init may join somebody else's cluster.  It turns token authentication on by itself;
        # without a token anyone who reaches a port of the cluster could run code here.
        common |= {"num_cpus": num_cpus, "include_dashboard": dashboard, "dashboard_host": "127.0.0.1"}
    ray.init(address=address, **common)
    with suppress(OSError):
        # Ray makes one for a local cluster, readable for all.
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
    """On SIGTERM and Ctrl-C call `ask`, which has the job save and stop; a second signal ends it at once.

    Does nothing outside of the main thread, which alone hears signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {kind: signal.getsignal(kind) for kind in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        for kind, handler in before.items():
            signal.signal(kind, handler)

    def heard(number: int, frame: object) -> None:
        restore()
        logger.warning("%s, then stopping; again to stop at once", saying)
        ask()

    for kind in before:
        signal.signal(kind, heard)
    try:
        yield
    finally:
        restore()
