"""Chunked bodies (RFC 9112, 7.1), read as browsers read them and passed on in the one form that a strict parser takes.

Bare line feeds, spaces and extensions after a size, and lines after the last chunk that are no trailers concern no
picture.  What is not a chunk at all is passed on as it is, for the parser to refuse.
"""

from __future__ import annotations

import re

#: Bytes of one line, and of all lines after the last chunk (Chromium: 16 KiB a line).
MAX_LINE_BYTES = 16 * 1024
MAX_TRAILER_BYTES = 64 * 1024
#: A body of a byte a chunk takes a second of this process for each million; pictures come in chunks of kilobytes.
MAX_CHUNKS = 2**18

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?\r?\Z", re.DOTALL)
_NEXT = re.compile(rb"\r?\n([0-9A-Fa-f]{1,15})[ \t]*\r?\n")


class ChunkReader:
    """One chunked body, from bytes as they arrive."""

    def __init__(self) -> None:
        self._line = bytearray()  # so far
        self._left = 0  # bytes of the current chunk to come
        self._next = self._size  # what the next line is
        self._trailer = 0
        self._count = 0
        self._raw = False  # no chunks any more
        self._ended = False
        self.excess = False  #: more came after the end

    def feed(self, data: bytes) -> bytes:
        """What a parser gets for `data`."""
        made: list[bytes] = []
        pieces: list[bytes] = []
        at = 0
        while at < len(data) and not self._raw:
            if self._ended:
                self.excess = True
                break
            if self._left:
                at = self._take(data, at, pieces)
                continue
            end = data.find(b"\n", at) + 1
            self._line += data[at : end or len(data)]
            at = end or len(data)
            if len(self._line) > MAX_LINE_BYTES:
                made.append(self._give_up())
            elif end:
                line = bytes(self._line[:-1])
                made.append(self._next(line))
                self._line.clear()
        if pieces:
            plain = b"".join(pieces)
            made.insert(0, b"%x\r\n%s\r\n" % (len(plain), plain))
        if self._raw:
            made.append(data[at:])
        return b"".join(made)

    def _take(self, data: bytes, at: int, pieces: list[bytes]) -> int:
        """Move what belongs to chunks from `data` to `pieces`; where it ends.  Most of the time is spent here."""
        left = self._left
        while True:
            piece = data[at : at + left]
            pieces.append(piece)
            at += len(piece)
            left -= len(piece)
            if left:
                break
            self._count += 1
            # Most often the end of the chunk and the next size are here too.
            found = _NEXT.match(data, at)
            left = int(found[1], 16) if found is not None and self._count < MAX_CHUNKS else 0
            if found is None or not left:
                self._next = self._end_of_chunk
                break
            at = found.end()
        self._left = left
        return at

    def _size(self, line: bytes) -> bytes:
        size = _SIZE.match(line)
        if size is None or self._count >= MAX_CHUNKS:
            return self._give_up()
        self._left = int(size[1], 16)
        if not self._left:
            self._next = self._after_last
        return b""

    def _end_of_chunk(self, line: bytes) -> bytes:
        if line not in (b"", b"\r"):
            return self._give_up()
        self._next = self._size
        return b""

    def _after_last(self, line: bytes) -> bytes:
        self._trailer += len(line)
        if self._trailer > MAX_TRAILER_BYTES:
            return self._give_up()
        if line in (b"", b"\r"):
            self._ended = True
            return b"0\r\n\r\n"
        return b""

    def _give_up(self) -> bytes:
        self._raw = True
        return b"not a chunk: " + bytes(self._line)
