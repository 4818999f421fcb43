"""Rows of a run that remain to be taken out: while there are any, no row of the run may be read.

`RUN/forgotten.parquet` says which rows are forgotten (`curation.forget.tombstones`); its metadata hold the work that is
still to be done.
"""

from __future__ import annotations

import json
from typing import Any

from pairmill.damage import undamaged
from pairmill.errors import RunDirError
from pairmill.store import Store

FORGOTTEN_FILE = "forgotten.parquet"

#: The key of the file's metadata that holds the work, as JSON.
WORK = b"pairmill.forget"


def pending_work(store: Store) -> dict[str, Any]:
    """What `pairmill forget` has begun in a run and not completed, as plain data; empty if nothing.

    Raises RunDirError for a damaged file.
    """
    if not store.exists(FORGOTTEN_FILE):
        return {}
    work = (store.schema(FORGOTTEN_FILE).metadata or {}).get(WORK)
    with undamaged(store.path(FORGOTTEN_FILE), local=True):
        return dict(json.loads(work)) if work else {}


def refuse_pending(store: Store) -> None:
    """Raises RunDirError if rows remain to be taken out: they must not be read any more."""
    if pending_work(store):
        raise RunDirError(
            "an interrupted `pairmill forget` must be completed before the run is read",
            value=store.uri,
            fix=f"run `pairmill forget {store.uri} --yes`",
        )
