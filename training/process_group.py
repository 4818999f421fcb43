"""How the workers of one machine find each other: by a file, and not by a port that other machines reach.

torch's store for `env://` and `tcp://` listens on all of the machine's addresses and lets anyone in.
"""

from __future__ import annotations

import math
import os
import sys
import tempfile
import uuid
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray
from ray.train.torch import TorchConfig

#: The base of `_OneMachine`: Ray names it only here.
_Torch: Any = TorchConfig().backend_cls


def torch_config(backend: str, *, timeout_s: float) -> TorchConfig:
    """Ray Train's configuration of the process group, for the cluster as it is now.

    It is torch's own for several machines, for one that others may join, and for NCCL.
    """
    nodes = [node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]]
    kind = OneMachineConfig if nodes == ["127.0.0.1"] and backend == "gloo" else TorchConfig
    return kind(backend=backend, timeout_s=math.ceil(timeout_s))


class _OneMachine(_Torch):  # type: ignore[misc]  # Ray has no types
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """Connect the workers of a group."""
        meeting = os.path.join(tempfile.gettempdir(), f"pairmill-group-{uuid.uuid4().hex}")
        world = len(worker_group)
        joined = [
            worker_group.execute_single_async(
                rank, _join, meeting, backend_config.backend, rank, world, backend_config.timeout_s
            )
            for rank in range(world)
        ]
        ray.get(joined)
        self._meeting = meeting

    def on_shutdown(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """Disconnect them."""
        super().on_shutdown(worker_group, backend_config)
        with suppress(OSError, AttributeError):  # the last worker removes it, if it lives that long
            os.unlink(self._meeting)


@dataclass
class OneMachineConfig(TorchConfig):  # type: ignore[misc]  # as above
    """As `TorchConfig`, for workers of one machine."""

    @property
    def backend_cls(self) -> type[Any]:
        """Ray Train's hooks around the process group."""
        return _OneMachine


def _join(meeting: str, backend: str, rank: int, world: int, timeout_s: int) -> None:
    import torch.distributed as dist

    # What torch's launcher sets; DeepSpeed looks for MPI if any is missing.  Nobody listens at the address.
    environment: dict[str, object] = {
        "RANK": rank,
        "WORLD_SIZE": world,
        "LOCAL_RANK": rank,
        "LOCAL_WORLD_SIZE": world,
        "NODE_RANK": 0,
    }
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 0}
    os.environ.update({name: str(value) for name, value in environment.items()})
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        backend, init_method=f"file://{meeting}", rank=rank, world_size=world, timeout=timedelta(seconds=timeout_s)
    )
