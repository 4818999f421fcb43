"""What can be checked of a sweep before Ray and torch's libraries are loaded, in seconds."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

from pairmill.errors import RecipeError
from training.data.source import open_sources
from training.recipe import TrainRecipe
from training.resources import size_workers
from training.trackers import check_trackers
from tune.recipe import SweepRecipe
from tune.space import draw_points, recipe_at

_OF_A_SCHEDULED_TEMPERATURE = ("temperature.init", "temperature.final", "temperature.max")


def check(recipe: SweepRecipe) -> None:
    """Raise RecipeError for a point that is not a valid recipe, missing data, or more than the machine has.

    What a running cluster has is checked on connecting to it.
    """
    base = TrainRecipe.checked(recipe.base)
    check_trackers(base.log)
    if recipe.search.method == "random":
        # Every point is known, so all are checked now.
        points = draw_points(recipe.space, recipe.base, samples=recipe.search.trials, seed=recipe.search.seed)
        trained = [recipe_at(recipe.base, point) for point in points]
        wanted = [(one.data, one.loss.opened().columns) for one in trained]
    else:
        asked = base.loss.opened().columns
        wanted = [(base.data, asked)]
        if "data.selection" in recipe.space:
            names = recipe.space["data.selection"].values or ()
            wanted = [(base.data.model_copy(update={"selection": name}), asked) for name in names]
    # Selections that the sweep itself makes do not exist yet; the run they are made from does.
    none = {"selection": None, "weight": None}
    found = [(d.model_copy(update=none) if d.selection in recipe.selections else d, asked) for d, asked in wanted]
    for data, asked in {(data.model_dump_json(), asked): (data, asked) for data, asked in found}.values():
        open_sources(data, asked)
    if recipe.search.method == "pbt":
        _check_pbt(recipe.space, learnt=base.temperature.learnable)
    address = base.compute.address or os.environ.get("RAY_ADDRESS") or "local"
    if address == "local":
        import torch

        cpus = base.compute.num_cpus or os.cpu_count() or 1
        trials_at_a_time(recipe, {"CPU": float(cpus), "GPU": float(torch.cuda.device_count())})


def _check_pbt(space: Iterable[str], *, learnt: bool) -> None:
    for key in space:
        if not key.startswith("optim.") and key not in _OF_A_SCHEDULED_TEMPERATURE:
            raise RecipeError(
                "with search.method pbt, space must only hold keys that can change within a run",
                value=key,
                fix=f"search over optim.… and {', '.join(_OF_A_SCHEDULED_TEMPERATURE)}, or use random or tpe",
            )
        if learnt and key.startswith("temperature."):
            raise RecipeError(
                "with search.method pbt, temperature keys must be for a fixed temperature: a learnt one ignores them",
                value=f"{key}, temperature.learnable: true",
                fix="set train.temperature.learnable: false",
            )


def trials_at_a_time(
    recipe: SweepRecipe, resources: Mapping[str, float], nodes: Sequence[Mapping[str, float]] = ()
) -> int:
    """Trials that the cluster holds at a time.

    Raises RecipeError if it cannot hold one of those the space allows, or fewer than search.concurrent.
    """
    held = []
    for key in [None, *(key for key in recipe.space if key.startswith(("compute.", "data.reader_cpus")))]:
        for value in recipe.space[key].edges if key else (None,):
            point = {key: value} if key else {}
            one = recipe_at(recipe.base, point)
            workers = size_workers(one, resources, nodes)
            cpus = workers.number * workers.num_cpus + one.data.reader_cpus
            gpus = workers.number * workers.num_gpus
            by_gpus = resources.get("GPU", 0.0) / gpus if gpus else float("inf")
            held.append(max(1, int(min(resources.get("CPU", 1.0) / cpus, by_gpus) + 1e-9)))
    concurrent = recipe.search.concurrent
    if concurrent == "auto":
        return min(held)
    if concurrent > min(held) and not TrainRecipe.checked(recipe.base).compute.autoscaling:
        raise RecipeError(
            "the cluster must hold the workers and a reader of search.concurrent trials",
            value=f"search.concurrent: {concurrent}; it holds {min(held)}",
            fix="lower it, or set it to auto",
        )
    return concurrent
