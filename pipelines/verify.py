"""`pairmill verify`: whether every file of a run is what was written, and what is done about those that are not."""

from __future__ import annotations

from typing import Any

import pyarrow.fs as pafs

from curation.healing import examine, heal
from curation.plan import open_plan
from curation.replan import plan_again
from pairmill.damage import DamagedError, damaged
from pairmill.errors import RunDirError, UserError
from pairmill.layout import ASIDE, RECIPE_FILE
from pairmill.store import Store
from pairmill.yaml_text import stored_recipe
from pipelines.opening import holds_curation, opened_run

#: The folder of a sweep that holds a training run for each trial.
_TRIALS = "trials"
#: Files of a trial beside those of its training run.
_OF_A_TRIAL = ("trial.json", "stopped.json", "failed.json")


def verified(run: str, *, set_aside: bool, yes: bool = False) -> dict[str, Any]:
    """What `pairmill verify` prints: how many files and bytes were read, and each damaged file with its remedy.

    set_aside: damaged files of a curated run are kept in RUN/damaged/, so that the next job makes their rows again;
    shards of the plan are planned again from the lists.  yes: also files with pictures, which are fetched again.
    Raises RunDirError for a folder that holds no run, and if another job works in it.
    """
    store = Store(run)
    if holds_curation(store):
        return _curated(store, set_aside=set_aside, yes=yes)
    trials = store.folders(_TRIALS)
    if not trials and not store.exists(RECIPE_FILE):
        raise RunDirError("the run directory must hold a run", value=store.uri, fix="give the run_dir of a run")
    return _trained(store, [f"{_TRIALS}/{name}" for name in trials] or [""])


def _curated(store: Store, *, set_aside: bool, yes: bool) -> dict[str, Any]:
    examined = examine(store)
    found = [one._asdict() for one in examined.damaged]
    planned: dict[int, bool] = {}

    def replan(shard: int) -> bool:
        if shard not in planned:  # its data and its manifest may both be damaged
            recipe = opened_run(store.uri)[1]
            planned[shard] = plan_again(store, open_plan(store), recipe.input, recipe.shards, shard)
        return planned[shard]

    if set_aside and found:
        with store.locked():
            for one in found:
                before = store.names(ASIDE)
                try:
                    one["done"] = heal(store, damaged(store.path(one["name"]), one["why"]), yes=yes, replan=replan)
                except UserError:
                    continue  # its remedy says what only the user can do, or consent to
                one["kept"] = store.names(ASIDE) != before
    return {"files": examined.files, "bytes": examined.bytes, "damaged": found}


def _trained(store: Store, runs: list[str]) -> dict[str, Any]:
    """A training run, or the trials of a sweep, which keep damaged files aside themselves where they resume."""
    from training.intact import RESULT_FILE, verify_training

    remedy = "where the run resumes, it is kept aside, and made again or left out"
    found = []
    for name in runs:
        inner = Store(f"{store.uri}/{name}".rstrip("/"))
        if name and not inner.exists(RECIPE_FILE) and not inner.exists(RESULT_FILE):
            continue  # a trial that has not begun
        found += [(f"{name}/{one.path}".lstrip("/"), str(one.why)) for one in verify_training(inner)]
    if runs != [""]:
        found += _of_sweep(store, runs)
    damages = [{"name": name, "why": why, "remedy": remedy} for name, why in found]
    selector = pafs.FileSelector(store.path("").rstrip("/"), recursive=True)
    files = [info for info in store.filesystem.get_file_info(selector) if info.type == pafs.FileType.File]
    return {"files": len(files), "bytes": sum(info.size for info in files), "damaged": damages}


def _of_sweep(store: Store, trials: list[str]) -> list[tuple[str, str]]:
    """Damaged files of a sweep outside of its trials' runs: its recipe, and what each trial is."""
    found = []
    try:
        stored_recipe(store)
    except UserError as error:
        found.append((RECIPE_FILE, " ".join(str(error.value).split())))
    for name in trials:
        for file in (f"{name}/{one}" for one in _OF_A_TRIAL if store.exists(f"{name}/{one}")):
            try:
                if not isinstance(store.read_json(file), dict):
                    found.append((file, "it is no JSON object"))
            except DamagedError as error:
                found.append((file, error.why))
    return found
