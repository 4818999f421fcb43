"""`pairs/` holds nothing but parts, so that whoever takes a folder for a dataset can read it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import duckdb
import pandas
import polars
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from run_fixture import make_run

from pairmill.layout import kept_rows
from pairmill.store import Store

READERS: dict[str, Callable[[str], int]] = {
    "pandas": lambda folder: len(pandas.read_parquet(folder)),
    "pyarrow table": lambda folder: len(pq.read_table(folder)),
    "pyarrow dataset": lambda folder: int(pads.dataset(folder).count_rows()),
    "polars": lambda folder: len(polars.read_parquet(folder)),
    "polars, lazily": lambda folder: polars.scan_parquet(f"{folder}/").collect().height,
    "duckdb": lambda folder: int(duckdb.sql(f"select count(*) from '{folder}/*.parquet'").fetchall()[0][0]),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.mark.parametrize("reader", READERS)
def test_the_folder_has_as_many_rows_as_were_kept(store: Store, reader: str) -> None:
    kept = sum(kept_rows(manifest) for manifest in store.manifests("selections/default"))
    assert READERS[reader](store.path("pairs")) == kept > 0


def test_it_holds_parts_only(store: Store) -> None:
    names = [path.name for path in Path(store.path("pairs")).iterdir()]
    assert sorted(names) == [f"part-{number:06d}.parquet" for number in sorted(store.index("pairs"))]
