"""Tars of strangers, read in memory that does not grow with the tar, whatever its headers claim.

Python's tarfile keeps every member that it has seen.  It also reads whole what a header announces: extended headers and
long names of any size, and maps of sparse files.  And it takes a damaged header for the end of the tar, and so the end
mark of the first of several tars in one file, and the end of a file that was cut off between two members.
"""

from __future__ import annotations

import tarfile
from typing import IO, Any

#: Bytes that the headers of one member may have.
LARGEST_HEADERS = 2**20
#: Records of global headers that hold for all later members.
_MOST_RECORDS = 1000


class BoundedTar(tarfile.TarFile):
    """A tar of which each member is forgotten when the next is asked for.

    Tars one after the other in one file, as `cat` leaves them, are read as one.
    Raises tarfile.ReadError for headers that are too large, where a header is damaged, and for a file without the empty
    block that POSIX wants at the end of a tar.
    """

    #: Bytes of a member that `extractfile` gives.
    largest_member = 2**24

    def __init__(self, name: Any = None, mode: Any = "r", fileobj: Any = None, **more: Any) -> None:
        self._headers = _Headers(fileobj)
        self._ended = False
        super().__init__(name, mode, self._headers, **more)

    def next(self) -> tarfile.TarInfo | None:
        """The next member; None at the end."""
        while not self._ended:
            found = self._next()
            if found is not None:
                return found
            if not self._headers.last:
                raise tarfile.ReadError(
                    f"it ends at byte {self.offset:,} without an end mark: it was cut off, or its writer was not closed"
                )
            self._begin_next_tar()
        return None

    def _next(self) -> tarfile.TarInfo | None:
        """The next member; None at the end of a tar."""
        del self.members[:]  # type: ignore[attr-defined]  # documented as the list behind getmembers
        self._headers.left = LARGEST_HEADERS
        self._headers.last = b""
        try:
            found = super().next()
        except (RecursionError, ValueError, OverflowError, MemoryError) as error:
            raise tarfile.ReadError(f"damaged header: {error}") from error
        finally:
            self._headers.left = None
        if found is None and self._headers.last.strip(b"\0"):
            raise tarfile.ReadError(f"damaged header at byte {self.offset:,}")
        records = self.pax_headers
        if len(records) > _MOST_RECORDS or sum(map(len, records.values())) > LARGEST_HEADERS:
            raise tarfile.ReadError("global headers are too large")
        return found

    def _begin_next_tar(self) -> None:
        """Skip the end mark and the empty blocks behind it."""
        while block := self._headers.read(tarfile.BLOCKSIZE):
            if block.strip(b"\0"):
                self._headers.unread = block
                self.offset = self._headers.tell()
                self.pax_headers = {}
                self._loaded = False
                return
        self._ended = True

    def extractfile(self, member: str | tarfile.TarInfo) -> IO[bytes] | None:
        """As tarfile's.  Raises tarfile.ReadError for a member that is too large to be held."""
        if isinstance(member, tarfile.TarInfo) and member.size > self.largest_member:
            raise tarfile.ReadError(
                f"{member.name[:200]}: a text or json file must have at most {self.largest_member:,} bytes; it has "
                f"{member.size:,}"
            )
        return super().extractfile(member)


def forward_tar(stream: Any) -> BoundedTar:
    """The uncompressed tar of a stream that can only be read forwards.  Raises tarfile.ReadError if it is none."""
    return BoundedTar.open(fileobj=stream, mode="r|")


class _Headers:
    """A stream of which only `left` bytes may be read (None: any number).

    last: what was read last.  unread: a block that was read and is read again.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.left: int | None = None
        self.last = b""
        self.unread = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def tell(self) -> int:
        """Where the next byte to be read is."""
        return int(self._stream.tell()) - len(self.unread)

    def read(self, size: int = -1) -> bytes:
        """Raises tarfile.ReadError for more than what is left."""
        if self.left is not None:
            if not 0 <= size <= self.left:
                raise tarfile.ReadError(f"the headers of a member must have at most {LARGEST_HEADERS:,} bytes")
            self.left -= size
        # What is unread is a block, and next a block is read.
        data: bytes = self.unread or self._stream.read(size)
        self.unread = b""
        self.last = data
        return data
