"""`pairmill verify`: whether every file of a run is what was committed, and what is done about those that are not."""

from __future__ import annotations

from typing import Any

from curation.healing import examine, heal
from pairmill.damage import DamagedError, damaged
from pairmill.errors import RunDirError
from pairmill.store import Store
from pipelines.opening import holds_curation


def verified(run: str, *, set_aside: bool) -> dict[str, Any]:
    """What `pairmill verify` prints: how many files and bytes were read, and each damaged file with its remedy.

    set_aside: damaged files are kept in RUN/damaged/, so that the next job makes their rows again.
    Raises RunDirError for a folder that holds no run, and if another job works in it.
    """
    store = Store(run)
    if not holds_curation(store):
        raise RunDirError("the run directory must hold a run", value=store.uri, fix="give the run_dir of a run")
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
