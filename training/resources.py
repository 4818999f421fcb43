"""How many workers a run has on a cluster, and what each reserves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pairmill.config import accelerator_types
from pairmill.errors import RecipeError
from training.recipe import TrainRecipe


class Workers(NamedTuple):
    """How many, and what each reserves."""

    number: int
    num_cpus: float
    num_gpus: float
    threads: int


def size_workers(
    recipe: TrainRecipe, resources: Mapping[str, float], nodes: Sequence[Mapping[str, float]] = ()
) -> Workers:
    """Workers that fill a cluster with these resources, unless the recipe says otherwise.

    nodes: resources of each node; none: one node has them all.
    Raises RecipeError if the cluster cannot hold them.
    """
    nodes = nodes or [resources]
    compute = recipe.compute
    cpus, gpus = resources.get("CPU", 1.0), resources.get("GPU", 0.0)
    per_gpu = (1.0 if gpus else 0.0) if compute.gpus_per_worker == "auto" else compute.gpus_per_worker
    number = (max(1, int(gpus / per_gpu)) if per_gpu else 1) if compute.workers == "auto" else compute.workers
    largest = max(node.get("CPU", 1.0) for node in nodes)
    share = max(0.25, min(cpus / 2 / number, largest))
    num_cpus = share if compute.cpus_per_worker == "auto" else compute.cpus_per_worker
    threads = max(1, int(max(min(cpus / number, largest), num_cpus))) if compute.threads == "auto" else compute.threads
    workers = Workers(number, num_cpus, per_gpu, threads)
    if compute.autoscaling:
        return workers
    for kind, wanted, there in (("CPU", num_cpus * number, cpus), ("GPU", per_gpu * number, gpus)):
        if wanted > there + 1e-9:
            raise RecipeError(
                f"the cluster must have the {kind}s that the workers reserve",
                value=f"compute.workers {number} x {wanted / number:g} = {wanted:g}; the cluster has {there:g}",
                fix=f"lower compute.workers or compute.{kind.lower()}s_per_worker, add nodes, "
                "or set compute.autoscaling: true where they may join",
            )
    if num_cpus * number + recipe.data.reader_cpus > cpus + 1e-9:
        raise RecipeError(
            "the cluster must have CPUs left for a reader beside the workers",
            value=f"compute.workers {number} x {num_cpus:g} + data.reader_cpus {recipe.data.reader_cpus:g}; "
            f"the cluster has {cpus:g}",
            fix="lower compute.cpus_per_worker or data.reader_cpus, or add nodes",
        )
    if compute.accelerator_type is not None and f"accelerator_type:{compute.accelerator_type}" not in resources:
        types = ", ".join(accelerator_types(resources)) or "none"
        raise RecipeError(
            "the cluster must have the accelerator that the workers ask for",
            value=f"compute.accelerator_type {compute.accelerator_type}; the cluster has {types}",
            fix="name one that it has, add nodes, or set compute.autoscaling: true where such a node may join",
        )
    if compute.memory_gb is not None and compute.memory_gb * 1e9 * number > resources.get("memory", math.inf):
        raise RecipeError(
            "the cluster must have the memory that the workers reserve",
            value=f"compute.workers {number} x {compute.memory_gb:g} GB; the cluster has "
            f"{resources['memory'] / 1e9:.1f} GB",
            fix="lower compute.workers or compute.memory_gb, or add nodes",
        )
    if not any(
        node.get("CPU", 0.0) + 1e-9 >= num_cpus
        and node.get("GPU", 0.0) + 1e-9 >= per_gpu
        and node.get("memory", math.inf) >= (compute.memory_gb or 0.0) * 1e9
        for node in nodes
    ):
        raise RecipeError(
            "a node must have what one worker reserves",
            value=f"{num_cpus:g} CPU, {per_gpu:g} GPU, {compute.memory_gb or 0:g} GB; of {len(nodes)} nodes the "
            f"largest has {largest:g} CPU, {max(node.get('GPU', 0.0) for node in nodes):g} GPU",
            fix="lower compute.cpus_per_worker, compute.gpus_per_worker or compute.memory_gb, and use more workers",
        )
    return workers
