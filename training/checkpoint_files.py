"""The files of a checkpoint with their digests, and Ray Train's list of the checkpoints of a run.

    training.json    in each checkpoint: a digest of every other file, and one of itself

Neither torch nor Ray is imported.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.fs as pafs

from pairmill.config import digest
from pairmill.errors import InputError
from pairmill.store import Store

TRAINING_FILE = "training.json"

#: Ray Train's list of the checkpoints of a run that it has committed.
SNAPSHOT_FILE = "checkpoint_manager_snapshot.json"

_CHUNK = 1 << 20


class Finding(NamedTuple):
    """A damaged file: its path within the run, and what is wrong with it."""

    path: str
    why: str


def sealed(folder: Path, data: Mapping[str, Any]) -> str:
    """The text of a checkpoint's TRAINING_FILE: `data`, and the digests of all other files of `folder`."""
    store = Store(str(folder))
    names = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    whole = {**data, "files": {name: _digest(store, name) for name in names if name != TRAINING_FILE}}
    return json.dumps({**whole, "digest": digest(whole)}, indent=1)


def require_whole(folder: Path, only: str | None = None) -> None:
    """Raise InputError for a checkpoint that is not as it was written; other models have no digests.

    only: the one file that will be read; None: all.
    """
    if not (folder / TRAINING_FILE).exists():
        return
    if damage := checkpoint_findings(Store(str(folder)), only=only):
        raise InputError(
            "a checkpoint must be as it was written",
            value=f"{folder / damage[0].path}: {damage[0].why}",
            fix="restore the file from a copy, or give an earlier checkpoint",
        )


def checkpoint_findings(store: Store, folder: str = "", *, only: str | None = None) -> list[Finding]:
    """What is damaged of a checkpoint.  folder: its path in `store`.  only: the file to look at; None: all.

    Of a checkpoint without digests, which an earlier version wrote, only TRAINING_FILE is looked at.
    """
    inner = f"{folder}/" if folder else ""
    try:
        data = read_training(store, f"{inner}{TRAINING_FILE}")
    except ValueError as error:
        return [Finding(f"{inner}{TRAINING_FILE}", str(error))]
    found = []
    for name, wanted in data.get("files", {}).items():
        if only not in (None, name):
            continue
        try:
            there = _digest(store, f"{inner}{name}")
        except FileNotFoundError:
            found.append(Finding(f"{inner}{name}", "it is gone"))
            continue
        if there["bytes"] != wanted["bytes"]:
            found.append(Finding(f"{inner}{name}", f"it has {there['bytes']:,} bytes of {wanted['bytes']:,}"))
        elif there != wanted:
            found.append(Finding(f"{inner}{name}", "its content has changed"))
    return found


def read_training(store: Store, name: str) -> dict[str, Any]:
    """The content of a TRAINING_FILE, without its digest.  Raises ValueError that says what is wrong with it."""
    data = read_json(store, name)
    if not (isinstance(data, dict) and {"step", "plan", "metrics"} <= data.keys()):
        raise ValueError("it is not a checkpoint's")
    kept = data.pop("digest", None)
    if kept is not None and kept != digest(data):
        raise ValueError("its content has changed")
    return data


def _digest(store: Store, name: str) -> dict[str, Any]:
    """Size and BLAKE2b-128 of a file."""
    hashed, size = hashlib.blake2b(digest_size=16), 0
    with store.filesystem.open_input_stream(store.path(name)) as stream:
        while chunk := stream.read(_CHUNK):
            hashed.update(chunk)
            size += len(chunk)
    return {"bytes": size, "blake2b": hashed.hexdigest()}


def read_json(store: Store, name: str) -> Any:
    """Raises ValueError that says what is wrong with the file."""
    try:
        return json.loads(store.read_bytes(name))
    except FileNotFoundError:
        raise ValueError("it is gone") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not JSON ({error})") from None


def committed_checkpoints(store: Store, name: str) -> list[dict[str, Any]] | None:
    """The checkpoints of a run that count, the oldest first, as SNAPSHOT_FILE has them; None: there is no such file.

    name: the run's.  Raises ValueError for a damaged file, and for one that names a checkpoint that is gone.
    """
    file = f"{name}/{SNAPSHOT_FILE}"
    if not store.exists(file):
        return None
    snapshot = read_json(store, file)
    try:
        results = snapshot["checkpoint_results"]
        indices = [int(index) for index in snapshot["checkpoint_report_indices"]]
        latest = snapshot["latest_checkpoint_result"]["checkpoint_dir_name"]
        names = [str(result["checkpoint_dir_name"]) for result in results]
        ordered = [names[at] for at in sorted(range(len(indices)), key=indices.__getitem__)]
        whole = len(indices) == len(results) > 0 and latest == ordered[-1] and int(snapshot["current_report_index"]) > 0
        by_name = dict(zip(names, results, strict=True))
        metrics = all(isinstance(result["metrics"], dict) for result in results)
    except (KeyError, TypeError, ValueError, IndexError):
        raise ValueError("it is no list of checkpoints") from None
    if not (whole and metrics):
        raise ValueError("it is no list of checkpoints")
    if gone := [one for one in ordered if one not in checkpoints_there(store, name)]:
        raise ValueError(f"it names {gone[0]}, which is gone")
    return [by_name[one] for one in ordered]


def checkpoints_there(store: Store, name: str) -> list[str]:
    """The folders of a run's checkpoints, by step; some may have been written in part only."""
    found = store.filesystem.get_file_info(pafs.FileSelector(store.path(name), allow_not_found=True))
    return sorted(i.base_name for i in found if i.type == pafs.FileType.Directory and i.base_name.startswith("step-"))


def list_of_checkpoints(results: list[dict[str, Any]], keep_best: str | None) -> dict[str, Any]:
    """SNAPSHOT_FILE for checkpoints, the oldest first, in the order in which Ray Train keeps them: the worst first."""

    def rank(at: int) -> tuple[float, int]:
        value = results[at]["metrics"].get(keep_best) if keep_best else None
        return (-math.inf if value is None or math.isnan(value) else float(value)), at

    order = sorted(range(len(results)), key=rank)
    nothing: list[Any] = []
    return {
        "ray_version": version("ray"),
        "checkpoint_results": [results[at] for at in order],
        "checkpoint_report_indices": order,
        "latest_checkpoint_result": results[-1],
        "pending_training_results": nothing,
        "pending_validation_specs": nothing,
        "current_report_index": len(results),
        "validated_checkpoint_dir_names": nothing,
        "timed_out_validation_checkpoint_dir_names": nothing,
        "failed_validation_checkpoint_dir_names": nothing,
    }


def reported_with(store: Store, name: str, folder: str) -> dict[str, Any]:
    """A checkpoint as Ray Train's list has it: its folder, and the metrics it was reported with.  name: the run's."""
    data = read_training(store, f"{name}/{folder}/{TRAINING_FILE}")
    metrics = {"step": data["step"], "evaluated": data.get("evaluated"), **data["metrics"]}
    return {"version": 0, "checkpoint_dir_name": folder, "metrics": metrics}
