"""Connect to Ray: the cluster the job was submitted to, the one the recipe names, or a local one of our own."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.data import DataContext
from ray.data.context import ShuffleStrategy
from ray.util.annotations import RayDeprecationWarning

from curation.flow import Flow
from curation.stage import SEGMENTS, Stage
from pairmill.cluster import alive_nodes
from pairmill.cluster import connected as connect
from pairmill.config import Placement, accelerator_types
from pairmill.errors import RecipeError
from pairmill.registry import NamedConfig
from pipelines.recipe import CurateRecipe

#: Cores of a short task, which reads, filters or commits a shard: actors that reserve all others would wait for it for
#: ever.
SHORT_TASK = 0.5
#: Cores that an actor reserves at least.
_LEAST = 0.1

#: The least number of models that share a GPU: captioner and translator.
_BESIDE = 2


@dataclass(frozen=True)
class Pool:
    """A pool of actors: how many, and what each reserves."""

    actors: int
    num_cpus: float
    num_gpus: float = 0.0
    actors_min: int | None = None
    memory: float | None = None  #: bytes
    accelerator_type: str | None = None

    def sizes(self, most: int) -> dict[str, int]:
        """`ActorPoolStrategy`'s sizes of a pool that has no use for more than `most` actors."""
        size = min(self.actors, most)
        if self.actors_min is None or self.actors_min >= size:
            return {"size": size}
        return {"min_size": self.actors_min, "max_size": size}

    def reserves(self) -> dict[str, Any]:
        """What each actor reserves, as Ray Data takes it."""
        wanted = {
            "num_cpus": self.num_cpus,
            "num_gpus": self.num_gpus,
            "memory": self.memory,
            "accelerator_type": self.accelerator_type,
        }
        return {name: value for name, value in wanted.items() if value}


@dataclass(frozen=True)
class Pools:
    """The pools of a job.

    of: stage -> its pool.  decoders: decoder processes of each fetching actor.  threads: stage -> threads of its model,
    on a CPU.
    """

    of: Mapping[str, Pool]
    decoders: int
    threads: Mapping[str, int] = field(default_factory=dict)


@contextmanager
def connected(recipe: CurateRecipe) -> Iterator[Pools]:
    """`pairmill.cluster.connected`, ready for Ray Data; yields the pools that fill the cluster."""
    cluster = recipe.cluster
    check_placement(recipe.flow())
    with connect(cluster.address, num_cpus=cluster.num_cpus, dashboard=cluster.dashboard):
        _set_data_context()
        nodes = alive_nodes()
        cpus = [node.get("CPU", 0.0) for node in nodes]
        flow = recipe.flow()
        pools = size_pools(
            flow, ray.cluster_resources(), smallest=min(filter(None, cpus), default=1.0), grows=cluster.autoscaling
        )
        if not cluster.autoscaling:
            check_pools(flow, pools, nodes)
            check_room(flow, pools, sum(cpus))
        yield pools


def _set_data_context() -> None:
    context = DataContext.get_current()
    # A block is a shard: Ray Data must not split it at its target size.
    context.target_max_block_size = None
    # Task-based: the hash shuffle's aggregator actors take seconds to start, for tables of a few megabytes.
    context.shuffle_strategy = ShuffleStrategy.SORT_SHUFFLE_PULL_BASED
    # Our own progress report is per stage; Ray Data's is per operator.
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logger = logging.getLogger("ray.data")
    logger.setLevel(logging.WARNING)
    # The error itself is raised here (`pairmill.worker_errors`); its traceback and advice stay in Ray's own log file.
    for handler in logger.handlers:
        if type(handler).__name__ == "PlainRayHandler":
            handler.addFilter(_no_errors)
    # Ray Data 2.60 warns that its way of bounding restarts will change in 2.64, and has no other yet.
    warnings.filterwarnings("ignore", message=".*ray_remote_args.*", category=RayDeprecationWarning)


def _no_errors(record: logging.LogRecord) -> bool:
    return record.levelno < logging.ERROR


def size_pools(
    flow: Flow, resources: Mapping[str, float], *, smallest: float | None = None, grows: bool = False
) -> Pools:
    """Pools that fill a cluster with these resources, unless the recipe says otherwise.

    smallest: cores of its smallest node that has any; None: those of the cluster, which is then one node.
    grows: whether nodes may join, so that more actors than fit today need not share the cores.
    A fetching actor keeps about two cores busy (its event loop and two decoder processes) and reserves one: the other
    half of the cores is left for the short tasks that read, filter and commit.
    """
    cpus = max(1, math.floor(resources.get("CPU", 1)))
    gpus = math.floor(resources.get("GPU", 0))
    pools = {}
    for stage in flow.stages:
        if stage.pool == "fetch":
            wanted = _placement(stage)
            actors = max(1, cpus // 2) if wanted.actors == "auto" else wanted.actors
            share = 1.0 if grows else (cpus - SHORT_TASK) / actors
            pools[stage.name] = _pool(wanted, actors, max(_LEAST, min(1.0, share)), 0.0)
        elif stage.pool == "model":
            # All models of a segment work at the same time.
            beside = max(_BESIDE, sum(other.pool == "model" for other in flow.segment(stage.segment)))
            pools[stage.name] = _model_pool(_placement(stage), cpus, gpus, smallest or cpus, beside, grows=grows)
    models = [stage for stage in flow.stages if stage.pool == "model"]
    return Pools(pools, min(2, cpus), {stage.name: _threads(stage, models, pools, cpus) for stage in models})


def _threads(stage: Stage, models: Sequence[Stage], pools: Mapping[str, Pool], cpus: int) -> int:
    """Threads of a model, which shares the cores with the other models of its segment."""
    if pools[stage.name].num_gpus:
        return 1
    return max(1, cpus // sum(pools[other.name].actors for other in models if other.segment == stage.segment))


def check_placement(flow: Flow) -> None:
    """Raise RecipeError for a user's own stage that sets keys of a pool of actors and has none."""
    for stage in flow.stages:
        config = stage.config
        if not (isinstance(config, NamedConfig) and isinstance(config, Placement)) or stage.pool in ("fetch", "model"):
            continue
        fields = Placement.model_fields
        # A recipe that a run kept spells out the defaults too.
        changed = [name for name in fields if getattr(config, name) != fields[name].default]
        if changed:
            raise RecipeError(
                f"stage {stage.name} must have actors for {changed[0]} to be set",
                value=f"{changed[0]}: {getattr(config, changed[0])}, and pool = {stage.pool!r}, which has none",
                fix='set pool = "model" in the stage\'s class, or leave the key out',
            )


def check_pools(flow: Flow, pools: Pools, nodes: Sequence[Mapping[str, float]]) -> None:
    """Raise RecipeError for a stage whose actors fit on no node, which Ray would silently wait for.

    nodes: the resources of each.
    """
    for name, pool in pools.of.items():
        stage = flow.named(name)
        wanted = {"CPU": pool.num_cpus, "GPU": pool.num_gpus, "memory": pool.memory or 0.0}
        if pool.accelerator_type is not None:
            wanted[f"accelerator_type:{pool.accelerator_type}"] = 0.001
        needed = getattr(stage.config, "enabled", True) is not False
        if needed and not any(all(node.get(kind, 0.0) >= n for kind, n in wanted.items()) for node in nodes):
            raise RecipeError(
                f"an actor of {name} must fit on a node of the cluster",
                value=f"{_spelled(wanted)}; the nodes have {'; '.join(sorted({_spelled(node) for node in nodes}))}",
                fix=f"lower {stage.section_name()}.num_cpus, num_gpus or memory_gb, name another accelerator_type, add "
                "a node, or set cluster.autoscaling: true where such a node may join",
            )


def check_room(flow: Flow, pools: Pools, cpus: float) -> None:
    """Raise RecipeError for actors that leave no room for a short task, which they would wait for without end.

    cpus: the cores of the cluster, which does not grow.
    """
    for segment in SEGMENTS:
        stages = [stage for stage in flow.segment(segment) if stage.name in pools.of]
        taken = sum(pools.of[stage.name].actors * pools.of[stage.name].num_cpus for stage in stages)
        if taken and taken > cpus - SHORT_TASK + 1e-6:
            keys = " and ".join(f"{stage.section_name()}.actors x num_cpus" for stage in stages)
            raise RecipeError(
                f"actors must leave {SHORT_TASK:g} of the cluster's cores to the tasks that read and commit shards",
                value=f"{keys}: {taken:g} of {cpus:g} CPU",
                fix="lower actors or num_cpus, or leave num_cpus to `auto`",
            )


def _placement(stage: Stage) -> Placement:
    return stage.config if isinstance(stage.config, Placement) else Placement()


def _spelled(resources: Mapping[str, float]) -> str:
    parts = [f"{amount:g} {kind}" for kind in ("CPU", "GPU") if (amount := resources.get(kind, 0.0))]
    if memory := resources.get("memory", 0.0):
        parts.append(f"{memory / 1e9:.1f} GB")
    return ", ".join(parts + accelerator_types(resources))


def _pool(placement: Placement, actors: int, num_cpus: float, num_gpus: float) -> Pool:
    """The pool that the recipe asks for.  actors, num_cpus, num_gpus: used where it leaves them open."""
    return Pool(
        actors=actors if placement.actors == "auto" else placement.actors,
        num_cpus=num_cpus if placement.num_cpus == "auto" else placement.num_cpus,
        num_gpus=num_gpus if placement.num_gpus == "auto" else placement.num_gpus,
        actors_min=placement.actors_min,
        memory=None if placement.memory_gb is None else placement.memory_gb * 1e9,
        accelerator_type=placement.accelerator_type,
    )


def _model_pool(config: Placement, cpus: int, gpus: int, node_cpus: float, beside: int, *, grows: bool) -> Pool:
    # `beside` models share every GPU.  Without GPUs they share the cores, less one for the short tasks, and more actors
    # use a larger machine better than more threads of one.
    by_cores = max(1, (cpus - 1) // (2 * beside))
    # All may be placed on one node, which must keep room for a short task.
    num_cpus = 1.0 if gpus else min(2.0, max(0.5 / beside, (node_cpus - 1) / beside))
    if config.actors != "auto" and not grows:
        num_cpus = max(_LEAST, min(num_cpus, (cpus - SHORT_TASK) / beside / config.actors))
    return _pool(config, gpus or by_cores, num_cpus, 1 / beside if gpus else 0.0)
