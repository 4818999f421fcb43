"""Connect to Ray: the cluster the job was submitted to, the one the recipe names, or a local one of our own."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray
from ray.data import DataContext
from ray.data.context import ShuffleStrategy
from ray.util.annotations import RayDeprecationWarning

from curation.cluster import connected as connect
from curation.engines.settings import EngineConfig
from pipelines.recipe import CurateRecipe

#: How often an actor or task that died is started again before the job fails.  Ray Data's own default is for ever,
#: which turns a worker that dies of its input into a job that never ends.
RESTARTS = 4


@dataclass(frozen=True)
class Pool:
    """A pool of actors: how many, and what each reserves."""

    actors: int
    num_cpus: float
    num_gpus: float = 0.0


@dataclass(frozen=True)
class Pools:
    """The pools of a job."""

    download: Pool
    decoders: int
    recaption: Pool
    translate: Pool


@contextmanager
def connected(recipe: CurateRecipe) -> Iterator[Pools]:
    """`curation.cluster.connected`, ready for Ray Data; yields the pools that fill the cluster."""
    cluster = recipe.cluster
    with connect(cluster.address, num_cpus=cluster.num_cpus, dashboard=cluster.dashboard):
        _set_data_context()
        nodes = [node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]]
        yield size_pools(recipe, ray.cluster_resources(), smallest=min(filter(None, nodes), default=1.0))


def _set_data_context() -> None:
    context = DataContext.get_current()
    # A block is a shard: Ray Data must not split it at its target size.
    context.target_max_block_size = None
    # Task-based: the hash shuffle's aggregator actors take seconds to start, for tables of a few megabytes.
    context.shuffle_strategy = ShuffleStrategy.SORT_SHUFFLE_PULL_BASED
    # Our own progress says what a user wants to know; Ray Data's says it per operator.
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    # Ray Data 2.60 announces that its way of bounding restarts will change in 2.64, and offers no other yet.
    warnings.filterwarnings("ignore", message=".*ray_remote_args_fn.*", category=RayDeprecationWarning)


def size_pools(recipe: CurateRecipe, resources: dict[str, float], *, smallest: float | None = None) -> Pools:
    """Pools that fill a cluster with these resources, unless the recipe says otherwise.

    smallest: cores of its smallest node that has any; null: those of the cluster, which is one node then.
    A download actor keeps about two cores busy (its event loop and two decoder processes) and reserves one: the other
    half of the cores is left for the short tasks that read, filter and commit.
    """
    cpus = max(1, math.floor(resources.get("CPU", 1)))
    gpus = math.floor(resources.get("GPU", 0))
    return Pools(
        download=Pool(recipe.cluster.download_actors or max(1, cpus // 2), num_cpus=1.0 if cpus > 1 else 0.5),
        decoders=min(2, cpus),
        recaption=_model_pool(recipe.recaption, cpus, gpus, smallest or cpus),
        translate=_model_pool(recipe.translate, cpus, gpus, smallest or cpus),
    )


def _model_pool(config: EngineConfig, cpus: int, gpus: int, node_cpus: float) -> Pool:
    # Captioner and translator sit side by side on every GPU; without one they share the cores, less one for the short
    # tasks, and a larger machine is better filled by more actors than by more threads of one.
    by_cores = max(1, (cpus - 1) // 4)
    # Both may land on one node, which must keep room for a short task.
    num_cpus = 1.0 if gpus else min(2.0, max(0.25, (node_cpus - 1) / 2))
    return Pool(
        actors=config.actors if isinstance(config.actors, int) else (gpus or by_cores),
        num_cpus=config.num_cpus if isinstance(config.num_cpus, float) else num_cpus,
        num_gpus=config.num_gpus if isinstance(config.num_gpus, float) else (0.5 if gpus else 0.0),
    )
