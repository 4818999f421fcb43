"""Fingerprint the evaluation sets of a recipe on a cluster, before rows are compared with them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import ray
from ray.util import ActorPool

from curation.decontamination.stage import Decontaminate
from pairmill.faults import fault_point
from pairmill.store import Store
from pipelines.actors import Actors
from pipelines.pools import Pools

logger = logging.getLogger("pairmill")


def make_evaluation_sets(stages: Sequence[Decontaminate], store: Store, pools: Pools, actors: Actors) -> None:
    """Bring what the run keeps of evaluation sets up to date, a piece of a set at a time, and say what is missing."""
    for stage in stages:
        numbers = stage.outstanding_pieces(store)
        if numbers:
            options = _reserved(stage, pools)
            cores = int(ray.cluster_resources().get("CPU", 1) / max(1, options["num_cpus"]))
            made = [
                ray.remote(_Fingerprinting).options(**options, **actors.options(stage.name)).remote(stage, store)
                for _ in range(max(1, min(len(numbers), cores)))
            ]
            try:
                list(ActorPool(made).map_unordered(lambda actor, number: actor.make.remote(number), numbers))
            finally:
                for actor in made:
                    ray.kill(actor)
        if said := stage.warning(store):
            logger.warning("%s", said)


def _reserved(stage: Decontaminate, pools: Pools) -> dict[str, Any]:
    """What a worker reserves: a core, and the largest share of a GPU that one of its models has."""
    shares = [pools.of[name].num_gpus for name in stage.models if name in pools.of]
    return {"num_cpus": 1, "num_gpus": max(shares, default=0.0)}


class _Fingerprinting:
    def __init__(self, stage: Decontaminate, store: Store) -> None:
        self._stage, self._store = stage, store

    def make(self, number: int) -> None:
        fault_point("evaluation_set.piece")
        self._stage.make_pieces(self._store, [number])
