"""A process with a Ray cluster of several nodes of its own, which may be killed at fault points."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from pipelines.doctor import project_root


@contextmanager
def cluster_of(nodes: int) -> Iterator[None]:
    """This process is the driver of a cluster of so many nodes, of a core each."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(nodes - 1):
        cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()


def printed_by(script: str, *arguments: str, folder: Path, faults: str = "") -> Any:
    """The JSON of the last line that a script prints; faults: as PAIRMILL_FAULTS, counted in the folder."""
    armed = {"PAIRMILL_FAULTS": faults, "PAIRMILL_FAULTS_DIR": str(folder)} if faults else {}
    done = subprocess.run(
        [sys.executable, script, *arguments],
        env=os.environ | armed | {"PYTHONPATH": str(project_root())},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{script} ended with {done.returncode}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])
