"""How many workers a run has on a cluster, and what each reserves."""

from __future__ import annotations

from typing import NamedTuple

from curation.config import accelerator_types
from curation.errors import RecipeError
from training.recipe import TrainRecipe


class Workers(NamedTuple):
    """How many, and what each reserves."""

    number: int
    num_cpus: float
    num_gpus: float
    threads: int


def size_workers(recipe: TrainRecipe, resources: dict[str, float]) -> Workers:
    """Workers that fill a cluster with these resources, unless the recipe says otherwise.

    Raises RecipeError if the cluster cannot hold them.
    """
    compute = recipe.compute
    cpus, gpus = resources.get("CPU", 1.0), resources.get("GPU", 0.0)
    per_gpu = (1.0 if gpus else 0.0) if compute.gpus_per_worker == "auto" else compute.gpus_per_worker
    number = (max(1, int(gpus / per_gpu)) if per_gpu else 1) if compute.workers == "auto" else compute.workers
    num_cpus = max(0.25, cpus / 2 / number) if compute.cpus_per_worker == "auto" else compute.cpus_per_worker
    threads = max(1, int(max(cpus / number, num_cpus))) if compute.threads == "auto" else compute.threads
    workers = Workers(number, num_cpus, per_gpu, threads)
    if compute.autoscaling:
        return workers
    for kind, wanted, there in (("CPU", num_cpus * number, cpus), ("GPU", per_gpu * number, gpus)):
        if wanted > there + 1e-9:
            raise RecipeError(
                f"the cluster has the {kind}s that the workers reserve",
                value=f"compute.workers {number} x {wanted / number:g} = {wanted:g}; the cluster has {there:g}",
                fix=f"lower compute.workers or compute.{kind.lower()}s_per_worker, add nodes, "
                "or set compute.autoscaling: true where they may join",
            )
    if num_cpus * number + recipe.data.reader_cpus > cpus + 1e-9:
        raise RecipeError(
            "the cluster has CPUs left for a reader beside the workers",
            value=f"compute.workers {number} x {num_cpus:g} + data.reader_cpus {recipe.data.reader_cpus:g}; "
            f"the cluster has {cpus:g}",
            fix="lower compute.cpus_per_worker or data.reader_cpus, or add nodes",
        )
    if compute.accelerator_type is not None and f"accelerator_type:{compute.accelerator_type}" not in resources:
        types = ", ".join(accelerator_types(resources)) or "none"
        raise RecipeError(
            "the cluster has the accelerator that the workers ask for",
            value=f"compute.accelerator_type {compute.accelerator_type}; the cluster has {types}",
            fix="name one of these, add nodes, or set compute.autoscaling: true where such a node may join",
        )
    if compute.memory_gb is not None and compute.memory_gb * 1e9 * number > resources.get("memory", 0.0):
        raise RecipeError(
            "the cluster has the memory that the workers reserve",
            value=f"compute.workers {number} x {compute.memory_gb:g} GB; the cluster has "
            f"{resources.get('memory', 0.0) / 1e9:.1f} GB",
            fix="lower compute.workers or compute.memory_gb, or add nodes",
        )
    return workers
