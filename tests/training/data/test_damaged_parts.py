"""A bit that has changed in a part of the product ends a training run with the file's name, and is never trained on."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from pairmill.errors import InputError
from pairmill.table_files import parquet_bytes
from training.data import row_groups
from training.data.row_groups import RowGroups


@pytest.mark.parametrize("large", [False, True])
def test_a_changed_bit_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: bool) -> None:
    if large:
        monkeypatch.setattr(row_groups, "LARGE_BYTES", 1)
    rows = pa.table({"n": list(range(4000)), "image": [b"%04d" % n * 50 for n in range(4000)]})
    data = bytearray(parquet_bytes(rows, 1000))
    file = tmp_path / "part-000000.parquet"
    file.write_bytes(data)
    read = RowGroups(pafs.LocalFileSystem(), ["n", "image"]).read
    assert read(str(file), 1, 0, 500)["n"].to_pylist() == list(range(1000, 1500))
    at = data.index(b"1234" * 50)
    data[at] ^= 1
    file.write_bytes(data)
    with pytest.raises(InputError, match=r"part-000000\.parquet, row group 1: "):
        RowGroups(pafs.LocalFileSystem(), ["n", "image"]).read(str(file), 1, 0, 500)
    assert len(RowGroups(pafs.LocalFileSystem(), ["n", "image"]).read(str(file), 0, 0, 500)) == 500
