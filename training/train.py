"""Train a dual encoder: check what can be wrong, then hand over to `training.driver`.

    recipe -> run directory, sources, evaluation datasets -> driver.run -> RUN/result.json

The checks load neither torch nor Ray, so that a wrong path is answered at once.  RUN/metrics.jsonl has a line a step.
Running the same recipe again resumes after the last committed checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pairmill.errors import PairmillError, RunDirError
from pairmill.layout import RECIPE_FILE
from pairmill.store import Store
from pairmill.yaml_text import read_mapping
from training.data.source import open_sources
from training.evaluate.datasets import check_datasets
from training.recipe import TrainRecipe

RESULT_FILE = "result.json"


def train(
    recipe: TrainRecipe, *, quiet: bool = False, begin: str | None = None, until: int | None = None
) -> dict[str, Any]:
    """Train the recipe's run, or resume it; returns RUN/result.json.

    It holds checkpoint (the last), best_checkpoint (by checkpoint.keep_best), step, steps, finished, metrics (of the
    last evaluation), evaluated (the step of that evaluation), metrics_before.

    begin: a checkpoint of another run to begin from, with its optimiser and its step; a temperature that the recipe
        fixes is the recipe's from there on.
    until: the step to end at, before the recipe's last one; schedules stay those of the whole run.
    A finished run is not run again: its result is returned.  SIGTERM and Ctrl-C save a checkpoint first.
    Raises UserError before any work for a wrong recipe, data or run directory, and JobError if the run fails.
    """
    store = Store(recipe.run_dir)
    store.check_writable()
    finished = _claim(store, recipe, until)
    if finished is not None:
        return finished
    sources = open_sources(recipe.data)
    check_datasets(recipe.evaluate)
    # Imported here: it takes ten times as long as the checks.
    from training.driver import run

    return run(recipe, store, sources, quiet=quiet, begin=begin, until=until)


def _claim(store: Store, recipe: TrainRecipe, until: int | None) -> dict[str, Any] | None:
    """The result of a run that is done; None where there is work.  Raises RunDirError for another recipe's run."""
    before = store.read_text(RECIPE_FILE)
    if before is None:
        return None
    changed = _changed(before, recipe)
    if changed:
        raise RunDirError(
            "run_dir must be new or hold a run of the same recipe",
            value=", ".join(changed),
            fix=f"give another run_dir, or the recipe of {store.path(RECIPE_FILE)}",
        )
    result: dict[str, Any] | None = store.read_json(RESULT_FILE)
    done = result is not None and result["step"] >= min(until or result["steps"], result["steps"])
    return result if done else None


def _changed(before: str, recipe: TrainRecipe) -> list[str]:
    """The dotted keys in which the recipe differs from an earlier one so that it would learn something else."""
    try:
        old = TrainRecipe.checked(read_mapping(before, RECIPE_FILE)).identity()
    except PairmillError:
        return ["the whole recipe: the one in run_dir is not a training recipe"]
    return sorted(_differences(old, recipe.identity()))


def _differences(old: Any, new: Any, key: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in old.keys() | new.keys():
            yield from _differences(old.get(name), new.get(name), f"{key}.{name}" if key else name)
    elif old != new and key != "run_dir":
        yield f"{key}: {json.dumps(new)} (was {json.dumps(old)})"
