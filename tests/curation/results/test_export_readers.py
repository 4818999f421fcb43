"""The exported Parquet files, opened with the tools that people read Parquet with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from run_fixture import make_run

from curation.results.export import export_img2dataset

Rows = list[dict[str, Any]]


def with_pandas(folder: Path) -> Rows:
    pandas = pytest.importorskip("pandas")
    table = pandas.read_parquet(folder, dtype_backend="pyarrow")
    return [{k: None if v is pandas.NA else v for k, v in row.items()} for row in table.to_dict("records")]


def with_polars(folder: Path) -> Rows:
    polars = pytest.importorskip("polars")
    rows: Rows = polars.read_parquet(f"{folder}/*.parquet").to_dicts()
    return rows


def with_duckdb(folder: Path) -> Rows:
    duckdb = pytest.importorskip("duckdb")
    # One thread and no extension: nothing is fetched.
    found = duckdb.connect(config={"threads": 1}).execute(f"SELECT * FROM read_parquet('{folder}/*.parquet')")
    names = [column[0] for column in found.description]
    return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 pairs in files of five; every third has no caption, and the last of the list alone has columns of its own."""
    place = tmp_path_factory.mktemp("made")
    rows = [{"url": f"http://a.example/ok/{n}", "text": "" if n % 3 == 0 else f"ball {n}"} for n in range(20)]
    rows[-1] |= {"licence": "cc0", "n": 3}
    store = make_run(place, rows, recaption=False, translate=False)
    export_img2dataset(store, place / "out", rows_per_shard=5)
    return place / "out"


@pytest.mark.parametrize("reader", [with_pandas, with_polars, with_duckdb])
def test_missing_captions_and_a_late_column_arrive(folder: Path, reader: Callable[[Path], Rows]) -> None:
    assert len(list(folder.glob("*.parquet"))) > 1
    rows = reader(folder)
    assert len(rows) == 20
    found = {row["url"].rpartition("/")[2]: row for row in rows}
    for n in range(20):
        row = found[str(n)]
        assert row["caption"] == (None if n % 3 == 0 else f"ball {n}")
        assert (row["licence"], row["n"]) == (("cc0", 3) if n == 19 else (None, None))
        assert bytes(row["jpg"]).startswith(b"\xff\xd8")
