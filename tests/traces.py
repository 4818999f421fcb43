"""What files hold, to the last value: for tests of what must be gone from them."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def values(array: pa.Array | pa.ChunkedArray) -> Iterator[bytes]:
    """Every string and every binary value of a column, however deep."""
    if isinstance(array, pa.ChunkedArray):
        for chunk in array.chunks:
            yield from values(chunk)
    elif pa.types.is_struct(array.type):
        for child in array.flatten():
            yield from values(child)
    elif pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        yield from values(array.flatten())
    elif pa.types.is_dictionary(array.type):
        yield from values(array.dictionary)
    elif pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        yield from (value.encode() for value in array.to_pylist() if value)
    elif pa.types.is_binary(array.type) or pa.types.is_large_binary(array.type):
        yield from (value for value in array.to_pylist() if value)


def content(file: Path) -> bytes:
    """All that is in a file: its bytes as they lie there, and every value of a parquet file's pages, decoded."""
    found = [file.read_bytes()]
    if file.suffix == ".parquet":
        table = pq.read_table(file)
        found += [value for name in table.column_names for value in values(table[name])]
    elif file.suffix == ".tar":
        with tarfile.open(file) as tar:
            found += [stream.read() for member in tar if (stream := tar.extractfile(member)) is not None]
    return b"\0".join(found)


def traces(folders: Iterable[Path], needles: Iterable[bytes]) -> dict[bytes, list[str]]:
    """Which needles are found in which files below some folders, in names too."""
    sought = list(needles)
    found: dict[bytes, list[str]] = {}
    for folder in folders:
        for file in sorted(f for f in folder.rglob("*") if f.is_file()):
            held = content(file) + str(file.relative_to(folder)).encode()
            for needle in sought:
                if needle in held:
                    found.setdefault(needle, []).append(str(file.relative_to(folder)))
    return found


#: Columns whose values are pairmill's own words, and numbers of samples.
_WORDS = ("uid", "key", "status", "drop_stage", "drop_reason", "reason")


def of_rows(folder: Path, uids: set[str]) -> set[bytes]:
    """What the parquet files below a folder say of these rows and of no other: strings and binary values."""
    mine: set[bytes] = set()
    others: list[bytes] = []
    for file in sorted(folder.rglob("*.parquet")):
        table = pq.read_table(file)
        if "uid" not in table.column_names:
            continue
        asked = pa.array([uid in uids for uid in table["uid"].to_pylist()], pa.bool_())
        named = [name for name in table.column_names if name not in _WORDS]
        for name in named:
            mine.update(values(table[name].filter(asked)))
            others += values(table[name].filter(pa.array([not one for one in asked.to_pylist()], pa.bool_())))
    elsewhere = b"\0".join(others)
    return {value for value in mine if len(value) > 6 and value not in elsewhere}
