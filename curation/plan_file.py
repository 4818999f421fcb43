"""`plan/plan.json`, the commit of a run's plan: which lists the run has, in which shards, and the totals."""

from __future__ import annotations

import contextlib
import logging

from pydantic import Field

from curation.listing import PlannedList
from pairmill.aside import keep_aside
from pairmill.checked_json import read_as, write_checked
from pairmill.config import Config
from pairmill.damage import DamagedError
from pairmill.layout import PLAN_COPY, PLAN_JSON
from pairmill.store import Store

logger = logging.getLogger("pairmill")


class Plan(Config):
    """The content of `plan/plan.json`: the lists of a run in the order they were added, and their totals.

    forgotten: digests of what `forgotten.parquet` may hold (`pairmill.pending`).
    """

    fingerprint: str
    rows: int
    shards: int
    cut: str
    inputs: list[PlannedList] = Field(min_length=1)
    forgotten: list[str] = Field(default_factory=list)

    @property
    def files(self) -> list[str]:
        """Where the input files were when they were planned, in the order of the rows."""
        return [file.place for listed in self.inputs for file in listed.files]

    def shard_numbers(self) -> range:
        """The shards of the run."""
        return range(self.shards)


def read_plan(store: Store) -> Plan | None:
    """The plan of a run directory; None if nothing is planned there.

    If the file is damaged or gone, its copy counts.  Raises DamagedError if both are damaged.
    """
    damage = None
    try:
        if (plan := read_plan_file(store, PLAN_JSON)) is not None:
            return plan
    except DamagedError as error:
        damage = error
    with contextlib.suppress(DamagedError):
        if (copy := read_plan_file(store, PLAN_COPY)) is not None:
            logger.warning("%s is damaged; its copy %s is used", store.path(PLAN_JSON), PLAN_COPY)
            return copy
    if damage is not None:
        raise damage
    return None


def read_plan_file(store: Store, name: str) -> Plan | None:
    """The plan in `PLAN_JSON` or in `PLAN_COPY`; None if there is no such file.  Raises DamagedError."""
    return read_as(store, name, "plan", Plan)


def write_plan(store: Store, made: Plan, fault: str = "write") -> None:
    """Commit a plan: the file, and then its copy."""
    write_checked(store, PLAN_JSON, made.model_dump(), fault)
    write_checked(store, PLAN_COPY, made.model_dump(), "plan.copy")


def restore_plan(store: Store, plan: Plan) -> None:
    """Write `plan`, as it was read, to the file or to the copy where they do not hold it; the old one is kept aside.

    The caller must hold the run's lock.
    """
    for name in (PLAN_JSON, PLAN_COPY):
        try:
            there = read_plan_file(store, name)
        except DamagedError as error:
            there = None
            keep_aside(store, name, error, "it is written again")
        if there != plan:
            write_checked(store, name, plan.model_dump(), "plan.restore")
