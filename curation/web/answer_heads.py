"""Heads of HTTP answers, read as browsers read them and passed on in the one form that a strict parser takes.

What people's servers send is often not what RFC 9112 asks for: a line without a colon, a name with a space, a cookie
of 9 kB, a length given twice.  None of it concerns the picture.  So of each head only the status and the fields that
the fetcher reads are passed on.  A length that is no number is no length: the body ends with the connection.  What
would change where the body ends (two different lengths, a NUL) is refused.
"""

from __future__ import annotations

import re

from curation.web.chunks import ChunkReader
from curation.web.coding import coding_of

#: Bytes of all heads of one answer; browsers end there too (Chromium's `kMaxHeaderBufSize`).
MAX_HEAD_BYTES = 256 * 1024

#: The fields that somebody here reads, beside those that frame the body.
KEPT_FIELDS = frozenset(
    {
        *(b"content-range", b"content-type", b"date", b"location", b"retry-after", b"tdm-reservation", b"upgrade"),
        b"x-robots-tag",
    }
)

_END = re.compile(rb"\n\r?\n")
_STATUS = re.compile(rb"(?i:HTTP)(?:/([0-9]+)\.?([0-9]*))?[ \t]+([0-9]{3})(?![0-9])")
_LINE = re.compile(rb"\r\n|\n|\r")
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")


class BadHead(Exception):
    """What a server sent is not the head of an HTTP answer, or does not say where the body ends."""


class HeadReader:
    """The head of one answer, from bytes as they arrive.

    `feed` returns what a parser gets: nothing until the head is complete, then the head in its plain form, then the
    body: chunks in their plain form too, or as many bytes as the head announced, or all that come.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched = 0
        self._read = 0
        self._body: ChunkReader | _Length | None = None

    @property
    def excess(self) -> bool:
        """More came than belongs to the answer: the connection must not be used again."""
        return self._body is not None and self._body.excess

    def feed(self, data: bytes) -> bytes:
        """What to pass on of `data`.  Raises `BadHead`."""
        if self._body is not None:
            return self._body.feed(data)
        self._buffer += data
        while True:
            self._skip_blank_lines()
            if not b"HTTP".startswith(bytes(self._buffer[:4]).upper()):
                raise BadHead(f"begins with {bytes(self._buffer[:12])!r}")
            end = _END.search(self._buffer, max(0, self._searched - 2))
            if end is None:
                self._searched = len(self._buffer)
                if self._read + len(self._buffer) > MAX_HEAD_BYTES:
                    raise BadHead(f"a head of more than {MAX_HEAD_BYTES} bytes")
                return b""
            raw, rest = bytes(self._buffer[: end.end()]), bytes(self._buffer[end.end() :])
            self._read += len(raw)
            if self._read > MAX_HEAD_BYTES:
                raise BadHead(f"a head of more than {MAX_HEAD_BYTES} bytes")
            code, head, self._body = plain_head(raw)
            self._searched = 0
            if 100 <= code < 200 and code != 101:  # an interim answer: the real one follows
                self._buffer, self._body = bytearray(rest), None
                if not rest:
                    return b""
                continue
            self._buffer.clear()
            return head + self._body.feed(rest)

    def _skip_blank_lines(self) -> None:
        if self._buffer.startswith((b"\r", b"\n")):
            blank = len(self._buffer) - len(self._buffer.lstrip(b"\r\n"))
            self._read += blank
            del self._buffer[:blank]
            self._searched = 0


class _Length:
    """A body of so many bytes; None: of as many as come."""

    def __init__(self, left: int | None) -> None:
        self._left = left
        self.excess = False

    def feed(self, data: bytes) -> bytes:
        if self._left is None:
            return data
        self.excess = self.excess or len(data) > self._left
        data = data[: self._left]
        self._left -= len(data)
        return data


def plain_head(raw: bytes) -> tuple[int, bytes, ChunkReader | _Length]:
    """The status, the head that is passed on, and the reader of its body.

    raw: the head with its empty line.  Raises `BadHead`.
    """
    if b"\0" in raw:
        raise BadHead("a NUL in the head")
    first, *lines = _LINE.split(raw)
    status = _STATUS.match(first)
    if status is None:
        raise BadHead(f"begins with {first[:40]!r}")
    code = int(status[3])
    fields = _fields(lines)
    kept = [(name, value) for name, value in fields if name in KEPT_FIELDS and value]
    if coding := coding_of([value.decode("latin-1") for name, value in fields if name == b"content-encoding"]):
        kept.append((b"content-encoding", coding.encode()))
    codings = _tokens(fields, b"transfer-encoding")
    lengths = list(dict.fromkeys(_tokens(fields, b"content-length")))
    body: ChunkReader | _Length = _Length(None)
    close = b"close" in _tokens(fields, b"connection")
    if b"chunked" in codings:
        # RFC 9112, 6.3: the chunks count.  Whoever sent both may be confused about where the answer ends.
        close = close or bool(lengths)
        kept.append((b"transfer-encoding", b"chunked"))
        body = ChunkReader()
    elif len(lengths) > 1:
        raise BadHead("two different lengths of one body")
    elif lengths and _is_length(lengths[0]):
        body = _Length(_number(lengths[0]))
        kept.append((b"content-length", b"%d" % _number(lengths[0])))
    elif lengths:
        close = True
    if code == 101:
        kept.append((b"connection", b"upgrade"))
    elif close:
        kept.append((b"connection", b"close"))
    elif b"keep-alive" in _tokens(fields, b"connection"):
        kept.append((b"connection", b"keep-alive"))
    minor = b"0" if (status[1] or b"1", status[2]) in ((b"1", b"0"), (b"0", b"9")) or not status[1] else b"1"
    plain = [b"HTTP/1.%s %03d -" % (minor, code), *(b"%s: %s" % field for field in kept), b"", b""]
    if code in (101, 204, 304):  # what follows is no body
        body = _Length(None if code == 101 else 0)
    return code, b"\r\n".join(plain), body


def _is_length(value: bytes) -> bool:
    """Whether it is a number of bytes; Chromium takes none that 63 bits do not hold (`StringToInt64`)."""
    return value.isdigit() and len(value.lstrip(b"0")) < 20 and _number(value) < 2**63


def _number(digits: bytes) -> int:
    """The number of some digits; Python takes no more than 4,300 of them, zeros in front counted."""
    return int(digits.lstrip(b"0") or b"0")


def _fields(lines: list[bytes]) -> list[tuple[bytes, bytes]]:
    """Names in lower case, and values; without the lines that have none, and continued lines joined."""
    found: list[tuple[bytes, list[bytes]]] = []
    for line in lines:
        if line[:1] in (b" ", b"\t"):
            if found:
                found[-1][1].append(line.strip(b" \t"))
            continue
        name, colon, value = line.partition(b":")
        name = name.rstrip(b" \t").lower()
        if colon and _NAME.match(name):
            found.append((name, [value.strip(b" \t")]))
        else:
            found.append((b"", []))  # a continued line belongs to it, and goes with it
    return [(name, b" ".join(filter(None, parts))) for name, parts in found if name]


def _tokens(fields: list[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    values = (token.strip(b" \t").lower() for key, value in fields if key == name for token in value.split(b","))
    return [token for token in values if token]
