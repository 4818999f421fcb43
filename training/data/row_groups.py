"""Rows of a row group, in memory that does not grow with the group.

Parquet is read from a group's first row on, and writers make one group of a whole file (pandas, pyarrow: of a million
rows).  So a large group is read as a stream that stays open: the next rows of it are read on from there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from pairmill.damage import of_content, one_line
from pairmill.errors import InputError

#: Bytes, uncompressed, up to which a group is read whole, with one request for all columns.
LARGE_BYTES = 64 * 2**20

#: Bytes of a large group that are decoded, and that are asked of the storage, at a time, about.
_STEP_BYTES = 8 * 2**20


class RowGroups:
    """Reads parts of row groups of one dataset; the same process reads on where it read last."""

    def __init__(self, filesystem: pafs.FileSystem, columns: Sequence[str], *, whole: bool = False) -> None:
        """whole: the columns are small, so that groups of any size are read whole."""
        self._filesystem, self._columns, self._whole = filesystem, list(columns), whole
        self._open: _OpenGroup | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None}

    def read(self, path: str, group: int, start: int, stop: int | None) -> pa.Table:
        """Rows [start, stop) of a row group.

        Raises IndexError if the file has no such group, InputError for bytes that are not what was written.
        """
        try:
            return self._read(path, group, start, stop)
        except Exception as error:
            if not of_content(error, local=True):
                raise  # the disk or the network, not the content
            raise InputError(
                "every file of the data must be as it was written",
                value=f"{path}, row group {group}: {one_line(error)}",
                fix="restore the file; of a curated run, `pairmill verify` names what is damaged and `curate` makes it "
                "again",
            ) from error

    def _read(self, path: str, group: int, start: int, stop: int | None) -> pa.Table:
        if self._open is not None and self._open.is_at(path, group, start):
            return self._open.read(start, stop)
        self.close()
        stream = self._filesystem.open_input_file(path)
        file = pq.ParquetFile(stream)
        if group >= file.num_row_groups:
            stream.close()
            raise IndexError(file.num_row_groups)
        footer = file.metadata.row_group(group)
        rows = footer.num_rows
        part = len(range(rows)[start:stop])
        if footer.total_byte_size > LARGE_BYTES and part < rows and not self._whole:
            step = max(1, min(1024, rows * _STEP_BYTES // footer.total_byte_size))
            self._open = _OpenGroup(path, group, rows, stream, self._columns, step)
            return self._open.read(start, stop)
        with stream:
            # One request for the columns' ranges instead of one a column: matters on object stores.
            file = pq.ParquetFile(stream, metadata=file.metadata, pre_buffer=True, page_checksum_verification=True)
            found = file.read_row_group(group, columns=self._columns, use_threads=False)
        return found.slice(start, None if stop is None else stop - start)

    def close(self) -> None:
        """Close the group that is open, if any."""
        if self._open is not None:
            self._open.stream.close()
            self._open = None


class _OpenGroup:
    """A large row group that is read forwards."""

    def __init__(self, path: str, group: int, rows: int, stream: Any, columns: list[str], step: int) -> None:
        self.stream = stream
        self._place, self._rows, self._at = (path, group), rows, 0
        file = pq.ParquetFile(stream, pre_buffer=False, buffer_size=_STEP_BYTES, page_checksum_verification=True)
        self._schema = pa.schema([file.schema_arrow.field(name) for name in columns])
        self._batches: Iterator[pa.RecordBatch] = file.iter_batches(
            batch_size=step, row_groups=[group], columns=columns, use_threads=False
        )
        self._held: pa.RecordBatch | None = None

    def is_at(self, path: str, group: int, start: int) -> bool:
        """Whether the row `start` of this group has yet to be read."""
        return self._place == (path, group) and start >= self._at

    def read(self, start: int, stop: int | None) -> pa.Table:
        stop = self._rows if stop is None else min(stop, self._rows)
        parts = []
        while self._at < stop:
            batch = self._held if self._held is not None else next(self._batches, None)
            if batch is None:  # pyarrow passes over a page whose header has another type
                raise ValueError(f"{self._at:,} rows of {self._rows:,} can be read")
            first, last = max(start - self._at, 0), min(stop - self._at, len(batch))
            if first < last:
                parts.append(batch.slice(first, last - first))
            self._held = batch.slice(last) if last < len(batch) else None
            self._at += last
        return pa.Table.from_batches(parts).select(self._schema.names) if parts else self._schema.empty_table()
