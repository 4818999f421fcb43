"""Calls of a kind's methods: a user's own within its time limit, and what it answers in the form that it must have."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pyarrow as pa

from curation.duplicates.kinds import Kind
from pairmill.errors import IntegrityError
from pairmill.own_code import Guard
from pairmill.registry import is_import_path

T = TypeVar("T")


def narrowed(kind: Kind, rows: pa.Table) -> pa.Table:
    """What a kind compares of some rows.  Raises IntegrityError if it does not give a value for each."""
    given = called(kind, lambda: kind.narrow(rows))
    narrow = pa.table({name: given[name] for name in kind.columns.names}).cast(kind.columns)
    if len(narrow) != len(rows):
        raise IntegrityError(f"the kind {kind.name} must compare a value of each row; {len(narrow)} of {len(rows)}")
    return narrow


def called(kind: Kind, method: Callable[[], T]) -> T:
    """What a method of a kind returns; of one that is not ours within its time limit, or with a JobError."""
    named = kind.config.name
    if not is_import_path(named):
        return method()
    return Guard(f"deduplicate.kinds: {named}", kind.timeout_s).called(method)
