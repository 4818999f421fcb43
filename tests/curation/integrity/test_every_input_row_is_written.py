"""`pairmill rows` writes every row of the input, once, or no file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from damage import RunUpto, rewrite, without

from curation.results.rows import write_rows
from curation.schema import set_columns
from pairmill.errors import IntegrityError
from pairmill.store import Store


def _at(store: Store, index: int) -> tuple[int, int]:
    """Shard and row of an input row."""
    for shard in store.index("plan"):
        found = pc.index(store.load("plan", shard)["index"], index).as_py()
        if found >= 0:
            return shard, found
    raise LookupError(index)


def _another(index: int, instead: int) -> Callable[[pa.Table], pa.Table]:
    def change(rows: pa.Table) -> pa.Table:
        return set_columns(rows, {"index": pc.if_else(pc.equal(rows["index"], index), instead, rows["index"])})

    return change


@pytest.mark.parametrize(
    ("lost", "says"),
    [(0, "every row of the input must"), (20, "every row of the input must"), (39, r"39 .*40")],
)
def test_a_plan_that_lost_a_row_gives_no_file(lost: int, says: str, run_upto: RunUpto, tmp_path: Path) -> None:
    store = run_upto("plan")
    shard, row = _at(store, lost)
    rewrite(store, "plan", shard, without(row))
    with pytest.raises(IntegrityError, match=says):
        write_rows(store, tmp_path / "out" / "rows.parquet")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_row_that_is_there_twice_gives_no_file(run_upto: RunUpto, tmp_path: Path) -> None:
    store = run_upto("pack")
    shard, _ = _at(store, 7)
    rewrite(store, "plan", shard, _another(7, 8))
    with pytest.raises(IntegrityError, match="every row of the input must"):
        write_rows(store, tmp_path / "out" / "rows.parquet")
    assert list((tmp_path / "out").iterdir()) == []
