"""Read text in UTF-16 or UTF-32 as if it were UTF-8, as far as a byte-order mark says which of them it is."""

from __future__ import annotations

import codecs

import pyarrow as pa

#: The encodings that a byte-order mark names; UTF-32 first, as one of its marks begins with one of UTF-16.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_LONGEST_MARK = 4


class Utf8Stream:
    """The bytes of a stream; in UTF-8 if they begin with the mark of UTF-16 or UTF-32, as Excel's "Unicode text" does.

    Half of a surrogate pair stays what no UTF-8 holds, so that the reader finds its line.
    Raises ValueError for text in UTF-16 or UTF-32 without a mark, and for half a character at the end.
    """

    def __init__(self, stream: pa.NativeFile) -> None:
        self._stream = stream
        self._decoder: codecs.IncrementalDecoder | None = None
        self._begun = False
        self._ready = b""

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return bool(self._stream.closed)

    def close(self) -> None:
        """Close the stream."""
        self._stream.close()

    def read(self, size: int) -> bytes:
        """`size` bytes; fewer at the end only, as pyarrow's readers expect."""
        if not self._begun:
            self._begin()
        if self._decoder is None:
            head, self._ready = self._ready, b""
            return bytes(head + self._stream.read(size - len(head)) if head else self._stream.read(size))
        while len(self._ready) < size:
            raw = self._stream.read(size)
            self._ready += self._decoder.decode(raw, final=not raw).encode("utf-8", "surrogatepass")
            if not raw:
                break
        block, self._ready = self._ready[:size], self._ready[size:]
        return block

    def _begin(self) -> None:
        head = b""
        while len(head) < _LONGEST_MARK and (more := self._stream.read(_LONGEST_MARK - len(head))):
            head += more
        self._begun = True
        mark = next((mark for mark in _MARKS if head.startswith(mark)), None)
        if mark is not None:
            self._decoder = codecs.getincrementaldecoder(_MARKS[mark])("surrogatepass")
            self._ready = self._decoder.decode(head.removeprefix(mark)).encode("utf-8", "surrogatepass")
        elif 0 < head.count(0) < len(head):
            raise ValueError("it looks like UTF-16 or UTF-32 without a byte-order mark; text must be UTF-8")
        else:
            self._ready = head
