"""How much a list may make of its bytes: a file of a few megabytes that unpacks to gigabytes is refused, not held.

The limits are far from what lists of URLs need, and bound the memory that planning takes, whatever a file says of
itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.inputs.encodings import Utf8Stream
from curation.inputs.files import InputFile

#: Bytes of a line, which is held in memory as a whole.
LARGEST_VALUE = 2**24
#: How much larger than its file the content may be, and from which size on that counts.
LARGEST_RATIO = 200
RATIO_COUNTS_FROM = 2**28
#: Columns of a file, or keys of its records.
MOST_COLUMNS = 2_000
#: Rows of a Parquet file for each of its bytes, and from which number on that counts.
MOST_ROWS_A_BYTE = 8
ROWS_COUNT_FROM = 1_000_000
#: Rows and bytes that are held at a time; a row of a Parquet file has no more bytes.
BATCH_ROWS = 16_384
BATCH_BYTES = 2**25

_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ": "xz"}


class Content:
    """The content of a file that may be compressed, read forwards; text in UTF-8, as `encodings` makes it.

    Raises ValueError while reading if it is too large for its file.
    """

    def __init__(self, file: InputFile, *, by_magic: bool = False) -> None:
        """by_magic: go by the first bytes, whatever the name, for a file that is no text."""
        compression: str | None = "detect"
        if by_magic:
            with file.filesystem.open_input_stream(file.path, compression=None) as raw:
                head = raw.read(6)
            compression = next((kind for magic, kind in _COMPRESSED.items() if head.startswith(magic)), None)
            if compression == "xz":
                raise ValueError("a compressed tar must be gzip, bzip2 or zstd; it is xz")
        stream = file.filesystem.open_input_stream(file.path, compression=compression)
        self._stream = stream if by_magic else Utf8Stream(stream)
        self._most = max(RATIO_COUNTS_FROM, LARGEST_RATIO * file.size)
        self._size = file.size
        self._seen = 0

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return bool(self._stream.closed)

    def readable(self) -> bool:
        """True: pyarrow asks."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes; b"" at the end."""
        block: bytes = self._stream.read(BATCH_BYTES if size is None or size < 0 else size)
        self._seen += len(block)
        if self._seen > self._most:
            raise ValueError(
                f"its content must be at most {LARGEST_RATIO} times as large as the file; of {self._size:,} bytes come "
                f"more than {self._most:,}"
            )
        return block

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def __enter__(self) -> Content:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_columns(count: int) -> None:
    """Raise ValueError for more columns than a list may have."""
    if count > MOST_COLUMNS:
        raise ValueError(f"a list must have at most {MOST_COLUMNS:,} columns; it has {count:,}")


def parquet_schema(stream: pa.NativeFile, size: int) -> pa.Schema:
    """The columns of a Parquet file of `size` bytes.  Raises ValueError for one that claims too much."""
    return _opened(stream, size).schema_arrow


def _opened(stream: pa.NativeFile, size: int) -> pq.ParquetFile:
    found = pq.ParquetFile(stream)
    facts = found.metadata
    check_columns(facts.num_columns)
    if facts.num_rows > max(ROWS_COUNT_FROM, MOST_ROWS_A_BYTE * size):
        raise ValueError(
            f"it must have at most {MOST_ROWS_A_BYTE} rows a byte; it claims {facts.num_rows:,} rows in {size:,} bytes"
        )
    for group in range(facts.num_row_groups):
        for at in range(facts.num_columns):
            chunk = facts.row_group(group).column(at)
            unpacked = chunk.total_uncompressed_size
            if unpacked > max(RATIO_COUNTS_FROM, LARGEST_RATIO * chunk.total_compressed_size):
                raise ValueError(
                    f"column {chunk.path_in_schema!r} must unpack to at most {LARGEST_RATIO} times its bytes; of "
                    f"{chunk.total_compressed_size:,} bytes come {unpacked:,}"
                )
    return found


def parquet_batches(stream: pa.NativeFile, size: int) -> Iterator[pa.Table]:
    """The rows of a Parquet file of `size` bytes, few enough at a time for their values to be held.

    A long text to which many rows may refer is read as a word of a dictionary, so it stands in memory once.
    Raises ValueError for a file that claims too much, and for a value, or values together, that are too large.
    """
    found = _opened(stream, size)
    facts = found.metadata
    found = pq.ParquetFile(stream, metadata=facts, read_dictionary=_long_words(stream, found))
    held = sum(facts.row_group(group).total_byte_size for group in range(facts.num_row_groups))
    rows = max(1, min(BATCH_ROWS, BATCH_BYTES * max(1, facts.num_rows) // max(1, held)))
    seen, first = 0, 1
    batches = found.iter_batches(batch_size=rows)
    while True:
        try:
            batch = next(batches, None)
        except pa.ArrowException as error:
            raise ValueError(f"{_column_of(found, rows)}from row {first} on: {error}") from error
        if batch is None:
            if first <= facts.num_rows:  # pyarrow passes over a page whose header has another type
                raise ValueError(f"{first - 1:,} rows of {facts.num_rows:,} can be read")
            return
        for piece in _pieces(batch, first):
            seen += sum(map(_size_of, piece.columns))
            if seen > max(RATIO_COUNTS_FROM, LARGEST_RATIO * size):
                raise ValueError(
                    f"its values must be at most {LARGEST_RATIO} times as large as the file; of {size:,} bytes come "
                    f"more than {seen:,}"
                )
            yield pa.Table.from_batches([piece])
        first += len(batch)


def _column_of(found: pq.ParquetFile, rows: int) -> str:
    """The first column that cannot be read, for an error message; pyarrow does not name it."""
    for name in found.schema_arrow.names:
        try:
            for _ in found.iter_batches(batch_size=rows, columns=[name]):
                pass
        except pa.ArrowException:
            return f"column {name!r}, "
    return ""


def _long_words(stream: pa.NativeFile, found: pq.ParquetFile) -> list[str]:
    """The text columns with dictionaries whose words are too long to be written out for every row of a batch."""
    facts, long = found.metadata, []
    for at in range(facts.num_columns):
        name = found.schema.column(at).path
        if found.schema.column(at).physical_type != "BYTE_ARRAY":
            continue
        probe = pq.ParquetFile(stream, metadata=facts, read_dictionary=[name])
        for group in range(facts.num_row_groups):
            chunk = facts.row_group(group).column(at)
            if not chunk.has_dictionary_page or chunk.total_uncompressed_size <= _LONG_WORD:
                continue
            first = next(probe.iter_batches(batch_size=1, row_groups=[group], columns=[name]), None)
            if first is not None and any(_longest(column) > _LONG_WORD for column in first.columns):
                long.append(name)
                break
    return long


#: Bytes of a word that every row of a batch may have without being too much.
_LONG_WORD = BATCH_BYTES // BATCH_ROWS


def _longest(values: pa.Array) -> int:
    """The bytes of the longest word in the dictionaries of an array, at any depth."""
    kind = values.type
    if pa.types.is_dictionary(kind):
        return int(pc.max(_lengths(values.dictionary)).as_py() or 0)
    if pa.types.is_struct(kind):
        return max(map(_longest, values.flatten()), default=0)
    if pa.types.is_map(kind) or any(test(kind) for test in _LISTS):
        return _longest(values.values)
    return 0


def _lengths(words: pa.Array) -> pa.Array:
    return pc.binary_length(words.cast(pa.large_binary()))


def _pieces(batch: pa.RecordBatch, first: int) -> Iterator[pa.RecordBatch]:
    """The rows in pieces that take BATCH_BYTES at most, with their texts written out.  first: the number of a row."""
    sizes = [_size_of(column) for column in batch.columns]
    if sum(sizes) <= BATCH_BYTES:
        yield batch
    elif len(batch) > 1:
        half = len(batch) // 2
        yield from _pieces(batch.slice(0, half), first)
        yield from _pieces(batch.slice(half), first + half)
    else:
        name = batch.schema.names[max(range(len(sizes)), key=sizes.__getitem__)]
        raise ValueError(
            f"row {first}, column {name!r}: a row must have at most {BATCH_BYTES:,} bytes; it has {max(sizes):,}"
        )


def _size_of(values: pa.Array) -> int:
    """Bytes of the values, each counted as often as it occurs."""
    kind = values.type
    if pa.types.is_dictionary(kind):
        words = values.dictionary
        if not any(test(words.type) for test in _TEXTS):
            return int(len(values) * max(1, words.nbytes // max(1, len(words))))
        return int(pc.sum(_lengths(words).take(values.indices.drop_null())).as_py() or 0)
    if pa.types.is_struct(kind):
        return sum(map(_size_of, values.flatten()))
    if pa.types.is_map(kind):  # not flattened by pyarrow, other than the lists of structs that maps are
        pair = pa.struct([pa.field("key", kind.key_type, False), pa.field("value", kind.item_type)])
        values = values.cast(pa.list_(pair))
    if any(test(values.type) for test in _LISTS):
        return _size_of(values.flatten()) + 4 * len(values)
    return int(values.nbytes)


_TEXTS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)


def unsized(record: Any) -> int:
    """About how many bytes the values of a record take."""
    return sum(len(value) if isinstance(value, str) else 16 for value in record.values())
