"""Run a function on W gloo ranks, each a process, and collect what they return."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

# Ranks are forked from a server that has the libraries loaded and no threads: quick, and safe beside Ray and OpenMP.
multiprocessing.set_forkserver_preload(["open_clip", "training.worker", "deepspeed"])


def run_on_ranks(world: int, work: Callable[..., Any], *args: Any) -> list[Any]:
    """`work(rank, *args)` on every rank; the results, by rank."""
    with patch.dict(os.environ, DS_ACCELERATOR="cpu"):  # DeepSpeed looks for an accelerator when it is imported
        forkserver.ensure_running()
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(_rank, (world, folder, work, args), nprocs=world, start_method="forkserver")
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(world)]


def _rank(rank: int, world: int, folder: str, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), DS_ACCELERATOR="cpu")
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    try:
        torch.save(work(rank, *args), Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()
