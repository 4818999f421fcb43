"""The file of what was taken out of a run, and whether rows remain to be taken out: then no row of it may be read.

    forgotten.parquet         which rows are forgotten (`curation.forget.tombstones`), and the work still to be done
    forgotten-copy.parquet    the same again

Without the file, rows that a person asked to erase would come back.  So `plan.json`, which no run lacks, says in its
entry `forgotten` what the file holds: the digest of its bytes; while it is replaced, of the old bytes and of the new.
A file that is gone, damaged, or older than that is refused.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from pairmill.aside import keep_aside
from pairmill.checked_json import read_checked, validated, write_checked
from pairmill.config import Config, bytes_digest
from pairmill.damage import DamagedError, damaged, undamaged
from pairmill.errors import RunDirError
from pairmill.layout import PLAN_COPY, PLAN_JSON
from pairmill.store import Store

logger = logging.getLogger("pairmill")

FORGOTTEN_FILE = "forgotten.parquet"
FORGOTTEN_COPY = "forgotten-copy.parquet"

#: The key of the file's metadata that holds the work, as JSON.
WORK = b"pairmill.forget"


class _Part(Config):
    """A part of the product that changes.  key: of its commit, if it has one.  rows: how many to remove."""

    key: str | None
    fresh: bool
    rows: int = Field(ge=0)


class _Work(Config):
    """What remains to be done: for the tombstones of the time `at`, copies, reports and parts."""

    at: int
    rows: int = Field(ge=0)
    kept: int = Field(ge=0)
    also: list[str]
    reports: list[str]
    parts: dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], _Part]

    def as_data(self) -> dict[str, Any]:
        return self.model_dump(mode="json")


#: The entry of `PLAN_JSON`, and what stands there for a file that does not exist.
_MARK, _NOTHING = "forgotten", ""


def read_forgotten(store: Store) -> bytes | None:
    """The bytes of the file; None if nothing was ever forgotten.

    If it is damaged or gone, its copy counts.  Raises DamagedError if neither is what `plan.json` says.
    """
    while True:
        marks = _marks(store)
        there = {name: _bytes(store, name) for name in (FORGOTTEN_FILE, FORGOTTEN_COPY)}
        found: dict[str, tuple[str, bytes | None]] = {}
        for name, data in there.items():
            if data is not None:
                found.setdefault(_digest(data), (name, data))
        found = found or {_NOTHING: (FORGOTTEN_FILE, None)}
        if marks is None:  # no plan: a folder that holds a copy of the product, say
            return there[FORGOTTEN_FILE]
        for mark in reversed(marks):  # what was written last
            if mark in found:
                name, data = found[mark]
                if name == FORGOTTEN_COPY:
                    _warn(store.path(FORGOTTEN_FILE))
                return data
        if marks == _marks(store):  # else it was replaced meanwhile
            raise damaged(store.path(FORGOTTEN_FILE), _why(there[FORGOTTEN_FILE]))


def damaged_forgotten(store: Store) -> Iterator[DamagedError]:
    """Those of the file and its copy that hold something else than was written to them."""
    try:
        counts, marks = read_forgotten(store), _marks(store) or ()
    except DamagedError as error:
        yield error
        return
    for name in (FORGOTTEN_FILE, FORGOTTEN_COPY):
        # One that a killed writer did not come to is not damaged.
        if (data := _bytes(store, name)) != counts and _digest(data) not in marks:
            yield damaged(store.path(name), _why(data))


def write_forgotten(store: Store, data: bytes | memoryview, fault: str) -> None:
    """Replace the file, all or nothing.  The caller must hold the run's lock.

    fault: as of `Store.write_bytes`.  Raises DamagedError if what it holds is not what `plan.json` says.
    """
    _mark(store, [_digest(read_forgotten(store)), _digest(data)])
    store.write_bytes(FORGOTTEN_FILE, data, fault)
    store.write_bytes(FORGOTTEN_COPY, data, "forget.copy_written")
    _mark(store, [_digest(data)])


def restore_forgotten(store: Store) -> None:
    """Write what counts to the file or to its copy where they do not hold it; a damaged one is kept aside.

    The caller must hold the run's lock.  Raises DamagedError as `read_forgotten`.
    """
    counts = read_forgotten(store)
    for error in damaged_forgotten(store):
        name = error.path.removeprefix(store.path(""))
        if store.holds(name):
            keep_aside(store, name, error, "it is written again")
    for name in (FORGOTTEN_FILE, FORGOTTEN_COPY):
        if counts is not None and _bytes(store, name) != counts:
            store.write_bytes(name, counts, "forget.restore")
    if _marks(store) not in (None, [_digest(counts)]):
        _mark(store, [_digest(counts)])


def pending_work(store: Store) -> dict[str, Any]:
    """What `pairmill forget` has begun in a run and not completed, as plain data; empty if nothing.

    Raises DamagedError for a damaged file.
    """
    data = read_forgotten(store)
    return {} if data is None else work_of(store, forgotten_table(store, data))


def forgotten_table(store: Store, data: bytes) -> pa.Table:
    """The table that the file's bytes hold.  Raises DamagedError for a file that is no table."""
    with undamaged(store.path(FORGOTTEN_FILE), local=True):
        return pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True).read(use_threads=False)


def work_of(store: Store, table: pa.Table) -> dict[str, Any]:
    """The work that the metadata of the file's table name.  Raises DamagedError."""
    work = (table.schema.metadata or {}).get(WORK)
    if not work:
        return {}
    with undamaged(store.path(FORGOTTEN_FILE), local=True):
        data = json.loads(work)
    return {} if data == {} else validated(store.path(FORGOTTEN_FILE), data, "work of a forgetting", _Work).as_data()


def refuse_pending(store: Store) -> None:
    """Raises RunDirError if rows remain to be taken out: they must not be read any more."""
    if pending_work(store):
        raise RunDirError(
            "an interrupted `pairmill forget` must be completed before the run is read",
            value=store.uri,
            fix=f"run `pairmill forget {store.uri} --yes`",
        )


def _bytes(store: Store, name: str) -> bytes | None:
    try:
        return store.read_bytes(name) if store.exists(name) else None
    except FileNotFoundError:  # replaced on a store without renames
        return None


def _digest(data: bytes | memoryview | None) -> str:
    return _NOTHING if data is None else bytes_digest(data)


def _why(data: bytes | None) -> str:
    return "it is gone" if data is None else f"its {len(data):,} bytes are not those that `pairmill forget` wrote last"


def _marks(store: Store) -> list[str] | None:
    """Digests of what the file may hold, the last one being what it should; None for a folder without a plan."""
    planned = _planned(store)
    if planned is None:
        return None
    marks = planned.get(_MARK) or [_NOTHING]
    if not (isinstance(marks, list) and all(isinstance(mark, str) for mark in marks)):
        raise damaged(store.path(PLAN_JSON), f"{_MARK} is no list of digests")
    return marks


def _planned(store: Store) -> dict[str, Any] | None:
    """The content of `PLAN_JSON`, or of its copy where that is damaged or gone.  Raises DamagedError if both are."""
    damage = None
    for name in (PLAN_JSON, PLAN_COPY):
        try:
            if (planned := read_checked(store, name, "plan")) is not None:
                return planned
        except DamagedError as error:
            damage = damage or error
    if damage is not None:
        raise damage
    return None


def _mark(store: Store, marks: list[str]) -> None:
    planned = _planned(store)
    for name in (PLAN_JSON, PLAN_COPY) if planned is not None else ():
        write_checked(store, name, {**(planned or {}), _MARK: list(dict.fromkeys(marks))}, "forget.mark")


@cache
def _warn(path: str) -> None:
    """Say once in a process that the copy counts."""
    logger.warning("%s is damaged or gone; its copy %s is used", path, FORGOTTEN_COPY)
