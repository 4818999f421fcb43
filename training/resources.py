"""How many workers a run has on a cluster, and what each reserves."""

from __future__ import annotations

from typing import NamedTuple

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
    for kind, wanted, there in (("CPU", num_cpus * number, cpus), ("GPU", per_gpu * number, gpus)):
        if wanted > there + 1e-9:
            raise RecipeError(
                f"the cluster has the {kind}s that the workers reserve",
                value=f"compute.workers {number} x {wanted / number:g} = {wanted:g}; the cluster has {there:g}",
                fix=f"lower compute.workers or compute.{kind.lower()}s_per_worker, or add nodes",
            )
    if num_cpus * number + recipe.data.reader_cpus > cpus + 1e-9:
        raise RecipeError(
            "the cluster has CPUs left for a reader beside the workers",
            value=f"compute.workers {number} x {num_cpus:g} + data.reader_cpus {recipe.data.reader_cpus:g}; "
            f"the cluster has {cpus:g}",
            fix="lower compute.cpus_per_worker or data.reader_cpus, or add nodes",
        )
    threads = max(1, int(cpus // number)) if compute.threads == "auto" else compute.threads
    return Workers(number, num_cpus, per_gpu, threads)
