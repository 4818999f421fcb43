"""Parquet files of a run: any reader reads them, and ours notice every bit that has changed."""

from __future__ import annotations

import random
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pairmill import sealed_parquet
from pairmill.sealed_parquet import open_sealed, read_footer
from pairmill.table_files import parquet_bytes

ROWS = pa.table(
    {
        "uid": [f"{n:032x}" for n in range(60)],
        "image": [bytes([n]) * 50 for n in range(60)],
        "status": ["success", None, "timeout"] * 20,
        "texts": [[{"text": str(n), "score": n / 7}] for n in range(60)],
    }
).replace_schema_metadata({"what": "rows"})
FEW = ROWS.slice(0, 3)


def opened(data: bytes | memoryview) -> pa.Table:
    return open_sealed(pa.BufferReader(data)).read()


@pytest.fixture(params=["small", "large"])
def size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Large: as a file is read that is too large to be compared as a whole, in a few reads of its end."""
    if request.param == "large":
        monkeypatch.setattr(sealed_parquet, "_SMALL_BYTES", 0)
        monkeypatch.setattr(sealed_parquet, "_READ_BYTES", 100)
    return str(request.param)


@pytest.mark.usefixtures("size")
@pytest.mark.parametrize("rows", [ROWS, FEW, ROWS.slice(0, 0), pa.table({f"c{n}": [n] for n in range(900)})])
def test_it_is_read_as_it_was_written(rows: pa.Table) -> None:
    data = parquet_bytes(rows, 7)
    assert opened(data).equals(rows)
    assert open_sealed(pa.BufferReader(data)).schema_arrow.metadata == rows.schema.metadata
    assert read_footer(pa.BufferReader(data)).num_rows == len(rows)


def test_other_programs_read_it(tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    file.write_bytes(parquet_bytes(ROWS, 7))
    uids = ROWS["uid"].to_pylist()
    assert pq.read_table(file, page_checksum_verification=True).equals(ROWS)
    assert pd.read_parquet(file)["uid"].tolist() == uids
    assert pl.read_parquet(file)["uid"].to_list() == uids
    assert pl.scan_parquet(file).filter(pl.col("status").is_null()).collect().height == 20
    assert duckdb.sql(f"select uid from '{file}' order by uid").fetchall() == [(uid,) for uid in uids]


def test_any_bit_that_has_changed_is_noticed() -> None:
    data, draw = bytes(parquet_bytes(FEW)), random.Random(0)
    for place in range(len(data)):
        with pytest.raises(ValueError, match="what was written"):
            opened(bytes([*data[:place], data[place] ^ 1 << draw.randrange(8), *data[place + 1 :]]))


def test_of_a_large_file_every_bit_of_the_footer_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed_parquet, "_SMALL_BYTES", 0)
    data = bytes(parquet_bytes(FEW))
    footer = int.from_bytes(data[-8:-4], "little") + 8
    for place in range(len(data) - footer - sealed_parquet._SEAL, len(data)):
        with pytest.raises(ValueError, match="what was written"):
            opened(bytes([*data[:place], data[place] ^ 16, *data[place + 1 :]]))


@pytest.mark.usefixtures("size")
@pytest.mark.parametrize("left", [0, 1, 7, 8, 60, 300, -1, -30])
def test_a_file_that_is_cut_off_is_noticed(left: int) -> None:
    data = bytes(parquet_bytes(FEW))
    with pytest.raises(ValueError, match="what was written"):
        opened(data[:left] if left else b"")


@pytest.mark.usefixtures("size")
def test_a_file_of_another_program_is_none_of_ours() -> None:
    stream = pa.BufferOutputStream()
    pq.write_table(FEW, stream)
    theirs = stream.getvalue()
    with pytest.raises(ValueError, match="what was written"):
        opened(theirs)
    assert read_footer(pa.BufferReader(theirs)).num_rows == 3


def test_equal_rows_are_equal_bytes() -> None:
    assert bytes(parquet_bytes(ROWS, 7)) == bytes(
        parquet_bytes(pa.concat_tables([FEW, ROWS.slice(3)]).combine_chunks(), 7)
    )
