"""Ray Train's list of the checkpoints of a run.  Neither torch nor Ray is imported."""

from __future__ import annotations

import math
from importlib.metadata import version
from typing import Any

import pyarrow.fs as pafs

from pairmill.checkpoint_files import TRAINING_FILE, read_json, read_training
from pairmill.store import Store

#: Ray Train's list of the checkpoints of a run that it has committed.
SNAPSHOT_FILE = "checkpoint_manager_snapshot.json"


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
