"""The journal of a run: `runs/run-NNNN.json`, a record of each invocation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pairmill.damage import damaged
from pairmill.store import Store

#: The folder of the journal.
JOURNAL = "runs"

_RECORD = re.compile(r"run-([0-9]{4,})\.json")


def record_file(number: int) -> str:
    """The name of the record of an invocation."""
    return f"{JOURNAL}/run-{number:04d}.json"


def record_numbers(store: Store) -> list[int]:
    """The invocations that have a record, in order; one that was damaged and set aside leaves a gap."""
    return sorted(int(found[1]) for name in store.names(JOURNAL) if (found := _RECORD.fullmatch(name)))


def read_record(store: Store, number: int) -> dict[str, Any]:
    """The record of an invocation.  Raises DamagedError if it is none."""
    record = store.read_json(record_file(number))
    if not (isinstance(record, dict) and {"run", "segments"} <= record.keys()):
        raise damaged(store.path(record_file(number)), "it is no record of an invocation")
    return record


def read_records(store: Store) -> list[Mapping[str, Any]]:
    """The records of all invocations, in order.  Raises DamagedError if one of them is none."""
    return [read_record(store, number) for number in record_numbers(store)]


def last_job(records: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The record of the last job, which `pairmill forget` is not; None if none has run."""
    return next((record for record in reversed([*records]) if not record.get("forgot")), None)


def ended_well(job: Mapping[str, Any] | None) -> bool:
    """Whether a job ended without a failure, after its last segment.  Raises KeyError for a record that lacks keys."""
    return job is not None and bool(job["finished_at"]) and not job.get("failed") and "pack" in job["segments"]
