"""Train a dual encoder: check what can be wrong, then hand over to `training.driver`.

    recipe -> run directory, sources, evaluation datasets -> driver.run -> RUN/result.json

The checks load neither torch nor Ray, so that a wrong path is answered at once.  RUN/metrics.jsonl has a line a step.
Running the same recipe again resumes after the last committed checkpoint.
"""

from __future__ import annotations

from typing import Any

from pairmill.errors import RunDirError
from pairmill.layout import RECIPE_FILE
from pairmill.store import Store
from training.checkpoint_list import checkpoints_there
from training.data.source import open_sources
from training.data.texts import check_transforms
from training.evaluate.datasets import check_datasets
from training.intact import changed_keys, is_whole, read_result, same_recipe
from training.recipe import TrainRecipe
from training.trackers import check_trackers


def train(
    recipe: TrainRecipe, *, quiet: bool = False, begin: str | None = None, until: int | None = None
) -> dict[str, Any]:
    """Train the recipe's run, or resume it; returns RUN/result.json.

    It holds checkpoint (the last), best_checkpoint (by checkpoint.keep_best), step, steps, finished, metrics (of the
    last evaluation), evaluated (the step of that evaluation), metrics_before, left_out (what is in no row of the
    datasets' files, by dataset and reason).

    begin: a checkpoint of another run to begin from, with its optimiser and its step; a temperature that the recipe
        fixes is the recipe's from there on.
    until: the step to end at, before the recipe's last one; schedules stay those of the whole run.
    A finished run is not run again: its result is returned.  SIGTERM and Ctrl-C save a checkpoint first; before the
    first step there is nothing to save, and the result has no checkpoint.
    Raises UserError before any work for a wrong recipe, data or run directory, and JobError if the run fails.
    """
    store = Store(recipe.run_dir)
    store.check_writable()
    finished = claim(store, recipe, until)
    if finished is not None:
        return finished
    check_transforms(recipe.data)
    sources = open_sources(recipe.data, recipe.loss.opened().columns)
    check_datasets(recipe.evaluate)
    check_trackers(recipe.log)
    # Imported here: it takes ten times as long as the checks.
    from training.driver import run

    return run(recipe, store, sources, quiet=quiet, begin=begin, until=until)


def claim(store: Store, recipe: TrainRecipe, until: int | None) -> dict[str, Any] | None:
    """The result of a run that is done; None where there is work.  Raises RunDirError for another recipe's run.

    A damaged recipe or result counts as none, if the run's checkpoints say that it is this recipe's: `heal` repairs it.
    """
    if not store.exists(RECIPE_FILE) and not checkpoints_there(store, recipe.name):
        return None
    changed = changed_keys(store, recipe)
    if changed and not same_recipe(store, recipe):
        raise RunDirError(
            "run_dir must be new or hold a run of the same recipe",
            value=", ".join(changed),
            fix=f"give another run_dir, or the recipe of {store.path(RECIPE_FILE)}",
        )
    try:
        result = read_result(store)
    except ValueError:
        return None
    if changed or result is None or result["step"] < min(until or result["steps"], result["steps"]):
        return None
    return result if is_whole(store, result) else None
