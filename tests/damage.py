"""Damage what a run has on its disk, behind the back of its manifests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from pairmill.store import Store, shard_file

#: The run of `run_fixture.some_rows`, as far as a step of `run_fixture.STEPS`.
RunUpto = Callable[[str], Store]


def swap(store: Store, table: str, one: int, other: int) -> None:
    """Two shards of a table have each other's data file."""
    files = [Path(store.path(shard_file(table, shard))) for shard in (one, other)]
    data = [file.read_bytes() for file in files]
    for file, content in zip(files, reversed(data), strict=True):
        file.write_bytes(content)


def rewrite(store: Store, table: str, shard: int, change: Callable[[pa.Table], pa.Table]) -> None:
    """A shard's data file holds other rows than were committed."""
    name = shard_file(table, shard)
    store.write_table(name, change(store.read_table(name)))


def without(row: int) -> Callable[[pa.Table], pa.Table]:
    """The change that loses one row."""
    return lambda rows: pa.concat_tables([rows.slice(0, row), rows.slice(row + 1)])
