"""`pairmill verify`: whether every file of a run is what was written, and what is done about those that are not."""

from __future__ import annotations

from typing import Any

import pyarrow.fs as pafs

from curation.healing import examine, heal
from pairmill.damage import DamagedError, damaged
from pairmill.errors import RunDirError
from pairmill.layout import RECIPE_FILE
from pairmill.store import Store
from pipelines.opening import holds_curation

#: The folder of a sweep that holds a training run for each trial.
_TRIALS = "trials"


def verified(run: str, *, set_aside: bool) -> dict[str, Any]:
    """What `pairmill verify` prints: how many files and bytes were read, and each damaged file with its remedy.

    set_aside: damaged files of a curated run are kept in RUN/damaged/, so that the next job makes their rows again.
    Raises RunDirError for a folder that holds no run, and if another job works in it.
    """
    store = Store(run)
    if holds_curation(store):
        return _curated(store, set_aside=set_aside)
    trials = store.folders(_TRIALS)
    if not trials and not store.exists(RECIPE_FILE):
        raise RunDirError("the run directory must hold a run", value=store.uri, fix="give the run_dir of a run")
    return _trained(store, [f"{_TRIALS}/{name}" for name in trials] or [""])


def _curated(store: Store, *, set_aside: bool) -> dict[str, Any]:
    examined = examine(store)
    found = [one._asdict() for one in examined.damaged]
    if set_aside and found:
        with store.locked():
            for one in found:
                try:
                    heal(store, damaged(store.path(one["name"]), one["why"]), yes=True)
                except DamagedError:
                    continue  # its remedy says what only the user can do
                one["kept"] = True
    return {"files": examined.files, "bytes": examined.bytes, "damaged": found}


def _trained(store: Store, runs: list[str]) -> dict[str, Any]:
    """A training run, or the trials of a sweep, which keep damaged files aside themselves where they resume."""
    from training.intact import verify_training

    remedy = "where the run resumes, it is kept aside, and made again or left out"
    damages = [
        {"name": f"{name}/{one.path}".lstrip("/"), "why": str(one.why), "remedy": remedy}
        for name in runs
        for one in verify_training(Store(f"{store.uri}/{name}".rstrip("/")))
    ]
    selector = pafs.FileSelector(store.path("").rstrip("/"), recursive=True)
    files = [info for info in store.filesystem.get_file_info(selector) if info.type == pafs.FileType.File]
    return {"files": len(files), "bytes": sum(info.size for info in files), "damaged": damages}
