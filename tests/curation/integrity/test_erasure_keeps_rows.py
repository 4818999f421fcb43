"""What rewrites a shard in place takes values out of its rows, and never a row or a column."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from damage import RunUpto, without

from curation.erase import rewrite_shard
from curation.results.outcome import open_run
from pairmill.errors import IntegrityError


@pytest.mark.parametrize(
    "change",
    [
        without(0),
        lambda rows: pa.concat_tables([rows, rows.slice(0, 1)]),
        lambda rows: rows.drop_columns(["drop_reason"]),
        lambda rows: rows.append_column("more", pa.nulls(len(rows))),
        lambda rows: rows.select(rows.schema.names[::-1]),
    ],
    ids=["a_row_less", "a_row_more", "a_column_less", "a_column_more", "columns_moved"],
)
def test_an_erasure_that_would_lose_something_changes_nothing(
    change: Callable[[pa.Table], pa.Table], run_upto: RunUpto
) -> None:
    store = run_upto("pack")
    before = _files(Path(store.uri))
    with pytest.raises(IntegrityError, match=r"images shard 2.* must keep its rows"):
        rewrite_shard(store, open_run(store).tables.all, 2, {"images": change})
    assert _files(Path(store.uri)) == before


def _files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
