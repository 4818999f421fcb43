"""The journal of a run: `runs/run-NNNN.json`, a record of each invocation."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import Field

from pairmill.checked_json import read_as, write_as
from pairmill.config import Config
from pairmill.damage import DamagedError, damaged
from pairmill.store import Store

logger = logging.getLogger("pairmill")

#: The folder of the journal.
JOURNAL = "runs"

_RECORD = re.compile(r"run-([0-9]{4,})\.json")


class _Forgot(Config):
    """What `pairmill forget` did: when, how many rows, copies that still hold them, and code that was missing."""

    at: int
    rows: int
    kept: int
    not_cleaned: list[str]
    without: list[str] = Field(default_factory=list)


class _Record(Config):
    """A record.  Times are seconds since the epoch; a segment has that of its begin and of its end.

    beside: `pairmill select`, which leaves the product and all that it is made from as they are.
    """

    run: int = Field(ge=1)
    command: str
    started_at: float
    finished_at: float | None
    failed: str | None = None
    segments: dict[str, tuple[float, float | None]]
    versions: dict[str, str]
    cluster: dict[str, float]
    forgot: _Forgot | None = None
    beside: bool = False


_WHAT = "record of an invocation"


def record_file(number: int) -> str:
    """The name of the record of an invocation."""
    return f"{JOURNAL}/run-{number:04d}.json"


def record_numbers(store: Store) -> list[int]:
    """The invocations that have a record, in order; one that was damaged and set aside leaves a gap."""
    return sorted(int(found[1]) for name in store.names(JOURNAL) if (found := _RECORD.fullmatch(name)))


def write_record(store: Store, record: Mapping[str, Any], fault: str = "write") -> None:
    """Write the record of the invocation `record["run"]`.  Raises IntegrityError if it could not be read again."""
    write_as(store, record_file(record["run"]), record, _WHAT, _Record, fault)


def read_record(store: Store, number: int) -> dict[str, Any]:
    """The record of an invocation.  Raises DamagedError if it is none."""
    name = record_file(number)
    record = read_as(store, name, _WHAT, _Record)
    if record is None:
        raise damaged(store.path(name), "it is gone")
    if record.run != number:
        raise damaged(store.path(name), f"it is the record of invocation {record.run}")
    return record.model_dump(mode="json", exclude_unset=True)


def read_records(store: Store) -> list[Mapping[str, Any]]:
    """The records of all invocations, in order.  Raises DamagedError if one of them is none."""
    return [read_record(store, number) for number in record_numbers(store)]


def readable_records(store: Store) -> tuple[list[Mapping[str, Any]], list[int]]:
    """The records of all invocations that have a whole one, in order, and the numbers of the others, with a warning."""
    records: list[Mapping[str, Any]] = []
    lost = []
    for number in record_numbers(store):
        try:
            records.append(read_record(store, number))
        except DamagedError as error:
            lost.append(number)
            logger.warning(
                "%s is damaged (%s): the report goes without that invocation", record_file(number), error.why
            )
    return records, lost


def last_job(records: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The record of the last job, which `pairmill forget` and `pairmill select` are not; None if none has run."""
    return next((r for r in reversed([*records]) if not (r.get("forgot") or r.get("beside"))), None)


def ended_well(job: Mapping[str, Any] | None) -> bool:
    """Whether a job ended without a failure, after its last segment."""
    return job is not None and bool(job["finished_at"]) and not job.get("failed") and "pack" in job["segments"]
