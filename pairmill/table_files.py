"""Tables as parquet files: how a run's are written, and the digests of what they hold."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from functools import lru_cache

import pyarrow as pa
import pyarrow.parquet as pq

from pairmill.config import bytes_digest
from pairmill.sealed_parquet import SealedBuffer

#: Columns worth a parquet dictionary.  Encoded images and their digests do not repeat: dictionaries only cost memory.
_REPEATING = ("status", "drop_stage", "drop_reason", "content_type", "language", "format", "error")

#: Encoded images, as leaves of a parquet schema: zstd would save 1 % and cost time to write and to read.
_PIXELS = ("image", "image.bytes")


def data_facts(data: memoryview) -> dict[str, object]:
    """What a manifest says of the bytes of its data file: their number and their digest."""
    return {"bytes": data.nbytes, "file": bytes_digest(data)}


def parquet_bytes(table: pa.Table, row_group_rows: int | None = None, *, checksums: bool = True) -> memoryview:
    """`table` as a parquet file: one row group unless `row_group_rows` says otherwise.

    checksums: whether it is sealed, and every page has its CRC, so that a reader of any column notices a bit that has
    changed.
    """
    buffer = SealedBuffer() if checksums else pa.BufferOutputStream()
    written: list[pq.FileMetaData] = []
    dictionaries = [name for name in _REPEATING if name in table.schema.names]
    compressed = [leaf for leaf in _leaves(table.schema) if leaf not in _PIXELS]
    pq.write_table(
        table,
        buffer,
        row_group_size=row_group_rows or max(1, len(table)),
        compression=dict.fromkeys(compressed, "zstd"),
        compression_level=dict.fromkeys(compressed, 1),
        use_dictionary=dictionaries,
        write_page_checksum=checksums,
        metadata_collector=written,
    )
    return buffer.sealed(written[0]) if isinstance(buffer, SealedBuffer) else memoryview(buffer.getvalue())


@lru_cache(maxsize=64)
def _leaves(schema: pa.Schema) -> list[str]:
    """The dotted paths of the columns of a schema in parquet."""
    buffer = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), buffer)
    columns = pq.read_metadata(pa.BufferReader(buffer.getvalue())).schema
    return [columns.column(number).path for number in range(len(columns))]


def content_digest(rows: pa.Table, volatile: Collection[str] = ()) -> str:
    """Hex digest of a table's content: its columns' names, types and values.

    volatile: columns that are left out, because they naturally differ between runs.
    """
    kept = [n for n in rows.schema.names if n not in volatile]
    hashed = hashlib.blake2b(digest_size=8)
    # As parquet, because slices and chunks of equal values have unequal buffers.
    hashed.update(parquet_bytes(rows.select(kept).combine_chunks(), checksums=False))
    return hashed.hexdigest()
