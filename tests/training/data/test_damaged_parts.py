"""A bit that has changed in a part of the product ends a training run with the file's name, and is never trained on."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from pairmill.errors import InputError, UserError
from pairmill.table_files import parquet_bytes
from pairmill.uris import find
from training.data import row_groups
from training.data.parquet import ParquetSource
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


def _every_row(folder: Path) -> list[object]:
    source = ParquetSource(find(str(folder)).ending_in(".parquet"), name="parts")
    return [source.read(piece).to_pydict() for piece in range(source.pieces)]


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_any_damage_of_a_footer_is_one_line(tmp_path: Path, seed: int, ours: bool) -> None:
    rows = pa.table({"image": [b"%04d" % n for n in range(40)], "caption": [f"a ball, {n}" for n in range(40)]})
    file, draw = tmp_path / "part-000000.parquet", random.Random(seed)
    file.write_bytes(parquet_bytes(rows, 20)) if ours else pq.write_table(rows, file)
    sound = file.read_bytes()
    before = _every_row(tmp_path)
    footer = int.from_bytes(sound[-8:-4], "little") + 8
    for place in range(len(sound) - footer, len(sound)):
        file.write_bytes(bytes([*sound[:place], sound[place] ^ 1 << draw.randrange(8), *sound[place + 1 :]]))
        try:
            found = _every_row(tmp_path)
        except UserError as error:
            assert "part-000000" in str(error.value) or "parts" in str(error.value)
            assert "\n" not in str(error.value)
        else:
            assert not ours and found is not None, "nothing in other people's files tells that a bit has changed"
        finally:
            file.write_bytes(sound)
    assert _every_row(tmp_path) == before


def test_a_page_that_pyarrow_passes_over_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_groups, "LARGE_BYTES", 1)
    file = tmp_path / "part-000000.parquet"
    file.write_bytes(parquet_bytes(pa.table({"n": list(range(4000))}), 4000))
    data = bytearray(file.read_bytes())
    data[pq.read_metadata(file).row_group(0).column(0).data_page_offset + 1] ^= 1  # the type of the page
    file.write_bytes(data)
    with pytest.raises(InputError, match=r"part-000000\.parquet, row group 0: "):
        RowGroups(pafs.LocalFileSystem(), ["n"]).read(str(file), 0, 0, 500)
