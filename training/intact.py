"""Whether the files of a training run are as they were written, and what is done about those that are not.

    damaged/         files that were not whole, kept aside when the run resumes

A damaged newest checkpoint makes the run resume from the one before.  What a file held is made again where the run's
other files or its recipe tell it: the list of checkpoints, the result, the recipe.  Neither torch nor Ray is imported.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from pairmill.aside import keep_aside
from pairmill.checkpoint_files import TRAINING_FILE, Finding, checkpoint_findings, read_json, read_training
from pairmill.config import digest
from pairmill.errors import PairmillError, UserError
from pairmill.layout import RECIPE_FILE
from pairmill.store import Store
from pairmill.yaml_text import read_mapping
from training.checkpoint_list import (
    SNAPSHOT_FILE,
    checkpoints_there,
    committed_checkpoints,
    list_of_checkpoints,
    reported_with,
)
from training.recipe import TrainRecipe

RESULT_FILE, METRICS_FILE = "result.json", "metrics.jsonl"

_OF_A_RESULT = {"checkpoint", "step", "steps"}


def same_recipe(store: Store, recipe: TrainRecipe) -> bool:
    """Whether a whole checkpoint of the run says that it was made with this recipe, whatever RECIPE_FILE holds now."""
    wanted = recipe_digest(recipe)
    for folder in reversed(checkpoints_there(store, recipe.name)):
        try:
            if read_training(store, f"{recipe.name}/{folder}/{TRAINING_FILE}").get("recipe") == wanted:
                return True
        except ValueError:
            continue
    return False


def changed_keys(store: Store, recipe: TrainRecipe) -> list[str]:
    """The dotted keys in which a recipe differs from the run's, so that it would learn something else."""
    try:
        old = TrainRecipe.checked(read_mapping(store.read_text(RECIPE_FILE) or "", RECIPE_FILE)).identity()
    except PairmillError:
        return [f"the whole recipe: {store.path(RECIPE_FILE)} is damaged, or not a training recipe"]
    return sorted(_differences(old, recipe.identity()))


def _differences(old: Any, new: Any, key: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in old.keys() | new.keys():
            yield from _differences(old.get(name), new.get(name), f"{key}.{name}" if key else name)
    elif old != new and key != "run_dir":
        yield f"{key}: {json.dumps(new)} (was {json.dumps(old)})"


def recipe_digest(recipe: TrainRecipe) -> str:
    """What identifies a recipe, wherever its run is."""
    return digest({key: value for key, value in recipe.identity().items() if key != "run_dir"})


#: Entries of RESULT_FILE that are paths within the run.
_PATHS = ("checkpoint", "best_checkpoint")


def read_result(store: Store) -> dict[str, Any] | None:
    """RESULT_FILE, with its checkpoints where the run is now; None if there is none.

    Raises ValueError that says what is wrong with the file.
    """
    if not store.exists(RESULT_FILE):
        return None
    found = read_json(store, RESULT_FILE)
    if not (isinstance(found, dict) and found.keys() >= _OF_A_RESULT and isinstance(found["checkpoint"], str)):
        raise ValueError("it names no checkpoint")
    for key in _PATHS:
        if isinstance(path := found.get(key), str):
            # Earlier versions wrote where the run was then.
            name, folder = path.rstrip("/").split("/")[-2:]
            there = checkpoints_there(store, name)
            if there and folder not in there:
                raise ValueError(f"it names {name}/{folder}, which is gone")
            found[key] = f"{store.uri}/{name}/{folder}"
    return found


def is_whole(store: Store, result: Mapping[str, Any]) -> bool:
    """Whether the checkpoint that a result names is; one that a user has deleted is not missed."""
    folder = str(result["checkpoint"]).removeprefix(f"{store.uri}/")
    name, _, one = folder.rpartition("/")
    return one not in checkpoints_there(store, name) or not checkpoint_findings(store, folder)


def whole_lines(text: bytes) -> tuple[list[bytes], list[int]]:
    """The lines of METRICS_FILE that can be read, and the numbers of the others, from 1."""
    good, bad = [], []
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        try:
            data = json.loads(line) if line.endswith(b"\n") else None
        except (ValueError, RecursionError):
            data = None
        if isinstance(data, dict) and isinstance(data.get("step"), int):
            good.append(line)
        else:
            bad.append(number)
    return good, bad


def heal(store: Store, recipe: TrainRecipe) -> None:
    """Keep damaged files of a run aside, so that it resumes from what is whole; a warning names each.

    The caller must hold the run's lock.
    """
    if store.exists(RECIPE_FILE) and (changed := changed_keys(store, recipe)):
        keep_aside(store, RECIPE_FILE, changed[0], "it is written again")
    before = checkpoints_there(store, recipe.name)
    latest = _heal_checkpoints(store, recipe.name, recipe.checkpoint.keep_best)
    try:
        if read_result(store) is not None and before != checkpoints_there(store, recipe.name):
            raise ValueError("it names a damaged checkpoint")
    except ValueError as error:
        keep_aside(store, RESULT_FILE, error, "it is written again")
    if (fault := _metrics_fault(store, latest)) is not None:
        good, _ = whole_lines(_metrics(store))
        if store.exists(METRICS_FILE):
            keep_aside(store, METRICS_FILE, fault, "what it lost is not measured again, its other lines stay")
        store.write_bytes(METRICS_FILE, b"".join(good))


def _metrics(store: Store) -> bytes:
    return store.read_bytes(METRICS_FILE) if store.exists(METRICS_FILE) else b""


def _metrics_fault(store: Store, checkpoint: str | None) -> str | None:
    """What is wrong with METRICS_FILE; None if nothing is.

    checkpoint: a folder whose TRAINING_FILE knows how the file began then.
    A last line that a killed run did not finish is no damage: its step is done again.
    """
    text = _metrics(store)
    good, bad = whole_lines(text)
    if bad and (text.endswith(b"\n") or bad != [len(good) + 1]):
        return f"line {bad[0]} cannot be read"
    log = read_training(store, f"{checkpoint}/{TRAINING_FILE}").get("log") if checkpoint else None
    if log is None:
        return None
    if len(text) < log["bytes"]:
        return f"it has {len(text):,} bytes; at the last checkpoint it had {log['bytes']:,}"
    began = hashlib.blake2b(text[: log["bytes"]], digest_size=16).hexdigest()
    return None if began == log["blake2b"] else "its content has changed"


def _heal_checkpoints(store: Store, name: str, keep_best: str | None) -> str | None:
    """The folder of the newest checkpoint, which is whole; None if there is none."""
    file, changed = f"{name}/{SNAPSHOT_FILE}", False
    try:
        results = committed_checkpoints(store, name)
        if results is None and not checkpoints_there(store, name):
            return None
        problem: object = None if results is not None else "it is gone"
    except ValueError as error:
        results, problem = None, error
    if results is None:
        whole = [one for one in checkpoints_there(store, name) if not checkpoint_findings(store, f"{name}/{one}")]
        results, changed = [reported_with(store, name, one) for one in whole], True
        if store.exists(file):
            keep_aside(store, file, problem, "it is made again from the checkpoints")
    while results and (found := checkpoint_findings(store, folder := f"{name}/{results[-1]['checkpoint_dir_name']}")):
        results, changed = results[:-1], True
        before = f"the run resumes from {results[-1]['checkpoint_dir_name']}" if results else "the run starts anew"
        keep_aside(store, folder, f"{found[0].path}: {found[0].why}", before)
    if changed and results:
        store.write_json(file, list_of_checkpoints(results, keep_best))
    elif changed:
        store.remove(file)
    return f"{name}/{results[-1]['checkpoint_dir_name']}" if results else None


def verify_training(store: Store) -> list[Finding]:
    """The damaged files of a training run; reads all of its checkpoints.  Changes nothing.

    Files that no reader needs, such as tensorboard's, and checkpoints that were never committed are not looked at.
    """
    return list(_findings(store))


def _findings(store: Store) -> Iterator[Finding]:
    names = [name for name in store.folders("") if checkpoints_there(store, name)]
    try:
        text = store.read_text(RECIPE_FILE) or ""
        recipe = TrainRecipe.checked(read_mapping(text, RECIPE_FILE))
        names = [recipe.name]
        if checkpoints_there(store, recipe.name) and not same_recipe(store, recipe):
            yield Finding(RECIPE_FILE, "none of the run's checkpoints was made with it")
    except UserError as error:
        yield Finding(RECIPE_FILE, " ".join(str(error.value).split()))
    except PairmillError as error:
        yield Finding(RECIPE_FILE, str(error))
    try:
        read_result(store)
    except ValueError as error:
        yield Finding(RESULT_FILE, str(error))
    latest = None
    for name in names:
        try:
            committed = [result["checkpoint_dir_name"] for result in committed_checkpoints(store, name) or ()]
        except ValueError as error:
            yield Finding(f"{name}/{SNAPSHOT_FILE}", str(error))
            committed = checkpoints_there(store, name)
        for folder in (f"{name}/{one}" for one in committed):
            found = checkpoint_findings(store, folder)
            yield from found
            latest = latest if found else folder
    if (fault := _metrics_fault(store, latest)) is not None:
        yield Finding(METRICS_FILE, fault)
