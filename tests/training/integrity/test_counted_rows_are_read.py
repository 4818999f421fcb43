"""Training reads the rows that were counted when it began, of one sample each."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from damage import rewrite, swap
from small_datasets import reader_of, write_parquet
from test_sources import curated

from pairmill.errors import IntegrityError
from pairmill.store import Store
from training.data.batches import every_row
from training.data.source import open_source


@pytest.mark.parametrize(("rows", "says"), [(19, "19 in place of 20"), (10, "row group 1 is missing")])
def test_a_file_that_lost_rows_since_stops_the_run(rows: int, says: str, tmp_path: Path) -> None:
    source = open_source(str(write_parquet(tmp_path / "x.parquet", 20)))
    reader = reader_of([source])
    write_parquet(tmp_path / "x.parquet", rows)
    with pytest.raises(IntegrityError, match=says):
        list(every_row(reader))


@pytest.mark.parametrize("table", ["images", "columns/filter", "columns/translate"])
def test_a_shard_that_has_the_file_of_another_is_not_trained_on(table: str, tmp_path: Path) -> None:
    store = Store(str(curated(tmp_path)))
    source = open_source(str(tmp_path), "strict")
    swap(store, table, 0, 1)
    with pytest.raises(IntegrityError, match=f"{table} must have the rows of selections/strict.*shard 0"):
        source.read(0)


def test_rows_in_another_order_are_not_trained_on(tmp_path: Path) -> None:
    store = Store(str(curated(tmp_path)))
    source = open_source(str(tmp_path), "strict")
    rewrite(store, "columns/translate", 1, lambda rows: rows.take(pa.array([0, 1, 3, 2])))
    with pytest.raises(IntegrityError, match="columns/translate must have the rows of selections/strict"):
        source.read(1)
