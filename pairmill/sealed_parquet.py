"""Parquet files whose readers notice every bit that has changed.

    PAR1 | pages, each with its CRC | footer | mark, digest of all this, digest of the footer | footer | length | PAR1

Parquet has checksums for the data of pages, and none for their headers or for the footer, where one bit makes a column
another one.  So digests stand before the footer, at a place that no reader of Parquet looks at.  A small file is
compared as a whole.  Of a large one, of which mostly a few columns are wanted, only the footer and the pages read are.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

#: What a parquet file begins and ends with, and the bytes of the footer's length.
_MAGIC, _LENGTH = b"PAR1", 4
_TAIL = _LENGTH + len(_MAGIC)
#: What the seal begins with; then come two digests.
_MARK, _DIGEST = b"\0sealed\0", 16
_SEAL = len(_MARK) + 2 * _DIGEST

#: Bytes of the end of a file that are read at once; more only for a longer footer.
_READ_BYTES = 2**16
#: Up to this size a file is read and compared as a whole.
_SMALL_BYTES = 4 * 2**20


class SealedBuffer:
    """A file in memory for `pyarrow.parquet.write_table`."""

    def __init__(self) -> None:
        self._buffer = pa.BufferOutputStream()
        self._hash = _hash()
        self._bytes = 0

    def write(self, data: bytes | pa.Buffer) -> int:
        self._hash.update(data)
        self._bytes += self._buffer.write(data)
        return len(data)

    def flush(self) -> None:
        """Nothing waits."""

    def tell(self) -> int:
        return self._bytes

    @property
    def closed(self) -> bool:
        return False

    def close(self) -> None:
        """It stays open for `sealed`."""

    def sealed(self, metadata: pq.FileMetaData) -> memoryview:
        """The file's bytes.  metadata: its footer, as `write_table` collected it."""
        again = pa.BufferOutputStream()
        metadata.write_metadata_file(again)
        footer = again.getvalue().to_pybytes()[len(_MAGIC) : -_TAIL]
        seal = _seal(self._hash.digest(), footer)
        self._buffer.write(seal + footer + len(footer).to_bytes(_LENGTH, "little") + _MAGIC)
        return memoryview(self._buffer.getvalue())


def open_sealed(stream: pa.NativeFile) -> pq.ParquetFile:
    """A file that `SealedBuffer` made, opened; its pages are compared when they are read.

    Raises ValueError if its footer is not the one that was written, or anything else of a small file is not.
    """
    size = stream.size()
    end = _end(stream, _SMALL_BYTES if size <= _SMALL_BYTES else _READ_BYTES)
    if not end.sealed:
        raise ValueError("its end is not what was written")
    if size <= _SMALL_BYTES:
        if _hash(end.before).digest() != end.seal[len(_MARK) : -_DIGEST]:
            raise ValueError("its content is not what was written")
        stream = pa.BufferReader(end.before + end.seal + end.footer)
    return pq.ParquetFile(stream, metadata=end.metadata(), page_checksum_verification=True)


def read_footer(stream: pa.NativeFile) -> pq.FileMetaData:
    """The footer of any Parquet file; of one that `SealedBuffer` made, the one that was written.

    Raises ValueError if that has changed, and what pyarrow raises.
    """
    end = _end(stream, _READ_BYTES)
    if end.seal.startswith(_MARK) and not end.sealed:
        raise ValueError("its end is not what was written")
    return end.metadata() if end.sealed else pq.read_metadata(stream)


class _End(NamedTuple):
    """The end of a file.  footer: with its length and the magic number.  before: what else was read."""

    before: bytes
    seal: bytes
    footer: bytes

    @property
    def sealed(self) -> bool:
        body = self.seal[len(_MARK) : -_DIGEST]
        return self.footer.endswith(_MAGIC) and self.seal == _seal(body, self.footer[:-_TAIL])

    def metadata(self) -> pq.FileMetaData:
        return pq.read_metadata(pa.BufferReader(_MAGIC + self.footer))


def _end(stream: pa.NativeFile, read: int) -> _End:
    """read: bytes to read at first, at most the file's."""
    size = stream.size()
    tail = stream.read_at(min(read, size), max(0, size - read))
    footer = int.from_bytes(tail[-_TAIL : -len(_MAGIC)], "little") + _TAIL
    if len(tail) < _SEAL + footer <= size:
        tail = stream.read_at(_SEAL + footer, size - _SEAL - footer)
    at = max(0, len(tail) - footer)
    return _End(tail[: max(0, at - _SEAL)], tail[max(0, at - _SEAL) : at], tail[at:])


def _seal(body: bytes, footer: bytes) -> bytes:
    return _MARK + body + _hash(body + footer).digest()


def _hash(data: bytes = b"") -> hashlib.blake2b:
    return hashlib.blake2b(data, digest_size=_DIGEST)
