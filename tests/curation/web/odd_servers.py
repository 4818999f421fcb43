"""Answers as real servers send them, odd but sound, byte for byte; and some that browsers refuse too.

Each says whether Chromium shows the picture (`benchmarks/odd_answers.py` asks it, and records what it did).
"""

from __future__ import annotations

import gzip
import struct
import zlib
from typing import NamedTuple


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


#: A real picture of 2 x 2 pixels, so that a browser has something to show.
PICTURE = (
    b"\x89PNG\r\n\x1a\n"
    + _chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 8, 2, 0, 0, 0))
    + _chunk(b"IDAT", zlib.compress((b"\0" + b"\xc8\x64\x32" * 2) * 2))
    + _chunk(b"IEND", b"")
)
SIZE = len(PICTURE)
LENGTH = b"Content-Length: %d" % SIZE
TYPE = b"Content-Type: image/png"


class Answer(NamedTuple):
    """Bytes on the wire, after which the server closes."""

    raw: bytes
    shown: bool  #: by Chromium
    ours: bool | None = None  #: whether we keep the picture, where that is not what Chromium does

    @property
    def kept(self) -> bool:
        return self.shown if self.ours is None else self.ours


def _answer(*lines: bytes, status: bytes = b"HTTP/1.1 200 OK", end: bytes = b"\r\n", body: bytes = PICTURE) -> bytes:
    return end.join([status, *lines, b"", b""]) + body


def _with(*lines: bytes) -> bytes:
    return _answer(TYPE, *lines, LENGTH)


def _chunked(framed: bytes, *lines: bytes) -> bytes:
    return _answer(TYPE, *lines, b"Transfer-Encoding: chunked", body=framed)


_HALVES = PICTURE[:40], PICTURE[40:]
_TWO = b"%x\r\n%s\r\n%x\r\n%s\r\n" % (len(_HALVES[0]), _HALVES[0], len(_HALVES[1]), _HALVES[1])
_CODED = gzip.compress(PICTURE, mtime=0)
_RAW = zlib.compressobj(wbits=-15)
_RAW_DEFLATE = _RAW.compress(PICTURE) + _RAW.flush()


def _coded(coding: bytes, body: bytes) -> bytes:
    return _answer(TYPE, b"Content-Encoding: " + coding, b"Content-Length: %d" % len(body), body=body)


def _length(value: bytes, *lines: bytes) -> bytes:
    return _answer(TYPE, b"Content-Length: " + value, *lines)


def _gzip_header(flags: int, fields: bytes) -> bytes:
    return _CODED[:3] + bytes([flags]) + _CODED[4:10] + fields + _CODED[10:]


_PARTIAL = b"HTTP/1.1 206 Partial Content"


def _part(named: bytes, *lines: bytes, body: bytes = PICTURE) -> bytes:
    length = b"Content-Length: %d" % len(body)
    return _answer(TYPE, b"Content-Range: " + named, length, *lines, status=_PARTIAL, body=body)


ODD: dict[str, Answer] = {
    # lines that are no fields
    "line without a colon": Answer(_with(b"mod_cache hit"), True),
    "line without a colon, first": Answer(_answer(b"mod_cache hit", TYPE, LENGTH), True),
    "line of a stack trace": Answer(_with(b"Warning: Undefined variable $x in /a.php on line 3", b"<br />"), True),
    "empty name": Answer(_with(b": value"), True),
    "only a colon": Answer(_with(b":"), True),
    "status line twice": Answer(_with(b"HTTP/1.1 200 OK"), True),
    "name with a space": Answer(_with(b"X Cache: HIT"), True),
    "space before the colon": Answer(_with(b"X-Cache : HIT"), True),
    "tab before the colon": Answer(_with(b"X-Cache\t: HIT"), True),
    "length with a space before the colon": Answer(_answer(TYPE, b"Content-Length : %d" % SIZE), True),
    "name with brackets": Answer(_with(b"X-(Cache): HIT"), True),
    "name in quotes": Answer(_with(b'"X-Cache": HIT'), True),
    "name with a slash": Answer(_with(b"X/Cache: HIT"), True),
    "name with an at sign": Answer(_with(b"@cache: HIT"), True),
    "name in Latin-1": Answer(_with(b"X-\xe9tat: vu"), True),
    "name in UTF-8": Answer(_with("X-Zustand-ü: ja".encode()), True),
    "name with a control character": Answer(_with(b"X-\x01Cache: HIT"), True),
    "continued line": Answer(_with(b"X-Cache: HIT,", b"  MISS"), True),
    "continued line without a first": Answer(_with(b"mod_cache", b"  hit"), True),
    "first line continued": Answer(_answer(b" X-Cache: HIT", TYPE, LENGTH), True),
    # values
    "value in Latin-1": Answer(_with(b"X-Author: Andr\xe9"), True),
    "value in UTF-8": Answer(_with("X-Author: 安德烈".encode()), True),
    "value in Shift JIS": Answer(_with(b"X-Author: \x83\x41\x83\x93"), True),
    "type in Latin-1": Answer(_answer(b"Content-Type: image/png; name=caf\xe9.png", LENGTH), True),
    "value of control characters": Answer(_with(b"X-Tag: a\x01\x02\x7fb"), True),
    "empty value": Answer(_with(b"X-Cache:"), True),
    "no space after the colon": Answer(_with(b"X-Cache:HIT"), True),
    "bare CR in a value": Answer(_with(b"X-Cache: HIT\rX-More: 1"), True),
    "disposition in UTF-8": Answer(_with('Content-Disposition: inline; filename="图.png"'.encode()), True),
    # sizes
    "header of 9 kB": Answer(_with(b"X-Debug: " + b"y" * 9000), True),
    "header of 100 kB": Answer(_with(b"X-Debug: " + b"y" * 100_000), True),
    "cookie of 8.5 kB": Answer(_with(b"Set-Cookie: id=" + b"b" * 8500), True),
    "policy of 20 kB": Answer(_with(b"Content-Security-Policy: " + b"img-src a.example; " * 1050), True),
    "name of 9 kB": Answer(_with(b"X" * 9000 + b": 1"), True),
    "200 cookies": Answer(_with(*(b"Set-Cookie: c%d=%s" % (n, b"v" * 40) for n in range(200))), True),
    "1000 headers": Answer(_with(*(b"X-%d: y" % n for n in range(1000))), True),
    "reason of 9 kB": Answer(_answer(TYPE, LENGTH, status=b"HTTP/1.1 200 " + b"O" * 9000), True),
    "head of 250 kB": Answer(_with(*(b"X-%d: %s" % (n, b"y" * 990) for n in range(250))), True),
    "head of 300 kB": Answer(_with(*(b"X-%d: %s" % (n, b"y" * 990) for n in range(300))), False),
    # cookies that no parser likes
    "cookie without a name": Answer(_with(b"Set-Cookie: =x; Path=/"), True),
    "cookie with odd characters": Answer(_with(b'Set-Cookie: a[b]{c}="d\\", e; f\xe9=g; expires=never'), True),
    # status lines
    "no reason": Answer(_answer(TYPE, LENGTH, status=b"HTTP/1.1 200"), True),
    "empty reason": Answer(_answer(TYPE, LENGTH, status=b"HTTP/1.1 200 "), True),
    "reason in Latin-1": Answer(_answer(TYPE, LENGTH, status=b"HTTP/1.1 200 D\xe9sol\xe9"), True),
    "two spaces in the status": Answer(_answer(TYPE, LENGTH, status=b"HTTP/1.1  200  OK"), True),
    "lower case": Answer(_answer(TYPE, LENGTH, status=b"http/1.1 200 ok"), True),
    "version 1.0": Answer(_answer(TYPE, status=b"HTTP/1.0 200 OK"), True),
    "version 1.2": Answer(_answer(TYPE, LENGTH, status=b"HTTP/1.2 200 OK"), True),
    "version 2 in words": Answer(_answer(TYPE, LENGTH, status=b"HTTP/2 200 OK"), True),
    "no version": Answer(_answer(TYPE, LENGTH, status=b"HTTP 200 OK"), True),
    "status glued to the reason": Answer(_answer(TYPE, LENGTH, status=b"HTTP/1.1 200OK"), True),
    "empty line first": Answer(b"\r\n" + _with(), True),
    "status 203": Answer(_answer(TYPE, LENGTH, status=b"HTTP/1.1 203 Changed"), True),
    "status 299": Answer(_answer(TYPE, LENGTH, status=b"HTTP/1.1 299 Odd"), True),
    "early hints first": Answer(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n" + _with(), True),
    "continue first, with an odd line": Answer(b"HTTP/1.1 100 Continue\r\nmod_cache hit\r\n\r\n" + _with(), True),
    "ICY": Answer(_answer(TYPE, LENGTH, status=b"ICY 200 OK"), False),
    # line ends
    "bare line feeds": Answer(_answer(TYPE, LENGTH, end=b"\n"), True),
    "mixed line ends": Answer(b"HTTP/1.1 200 OK\n" + TYPE + b"\r\n" + LENGTH + b"\n\r\n" + PICTURE, True),
    "head ends in bare line feeds": Answer(b"HTTP/1.1 200 OK\r\n" + LENGTH + b"\n\n" + PICTURE, True),
    # lengths
    "length twice": Answer(_with(LENGTH), True),
    "length as a list": Answer(_answer(TYPE, b"Content-Length: %d, %d" % (SIZE, SIZE)), True),
    "length with zeros": Answer(_answer(TYPE, b"Content-Length: 000%d" % SIZE), True),
    "empty length": Answer(_answer(TYPE, b"Content-Length:"), True),
    "no length": Answer(_answer(TYPE), True),
    "more than announced": Answer(_with() + b"\r\n\r\n<!-- page cached -->", True),
    "length undefined": Answer(_length(b"undefined"), True),
    "length in words": Answer(_length(b"%d bytes" % SIZE), True),
    "length too small, in words": Answer(_length(b"5 bytes"), True),
    "length below zero": Answer(_length(b"-1"), True),
    "length with a sign": Answer(_length(b"+%d" % SIZE), True),
    "length with a point": Answer(_length(b"%d.0" % SIZE), True),
    "length in hexadecimal": Answer(_length(b"0x%x" % SIZE), True),
    "length NaN": Answer(_length(b"NaN"), True),
    "length in quotes": Answer(_length(b'"%d"' % SIZE), True),
    "length twice with a space": Answer(_length(b"%d %d" % (SIZE, SIZE)), True),
    "length undefined twice": Answer(_length(b"undefined, undefined"), True),
    "length of 64 bits": Answer(_length(b"9223372036854775808"), True),
    "length of 20 digits": Answer(_length(b"99999999999999999999"), True),
    "length undefined, of 1.0": Answer(
        _answer(TYPE, b"Content-Length: undefined", status=b"HTTP/1.0 200 OK"), True
    ),
    "length undefined, kept alive": Answer(_length(b"undefined", b"Connection: keep-alive"), True),
    "chunks and an undefined length": Answer(_chunked(_TWO + b"0\r\n\r\n", b"Content-Length: undefined"), True),
    "chunks and two lengths": Answer(_chunked(_TWO + b"0\r\n\r\n", b"Content-Length: 5", LENGTH), True),
    "length of 63 bits": Answer(_length(b"9223372036854775807"), False),
    "length of nothing": Answer(_length(b"0"), False),
    "length and undefined": Answer(_length(b"%d, undefined" % SIZE), False),
    "undefined, then a length": Answer(_length(b"undefined", LENGTH), False),
    "below zero, then a length": Answer(_length(b"-1", LENGTH), False),
    "two lengths that are none": Answer(_length(b"x", b"Content-Length: y"), False),
    "two different lengths": Answer(_with(b"Content-Length: 5"), False),
    "less than announced": Answer(_answer(TYPE, b"Content-Length: %d" % (SIZE + 9)), False),
    # chunks
    "chunks": Answer(_chunked(_TWO + b"0\r\n\r\n"), True),
    "chunks and a length": Answer(_chunked(_TWO + b"0\r\n\r\n", b"Content-Length: 7"), True),
    "chunks with extensions": Answer(_chunked(b"%x;sig=a b\r\n%s\r\n0;x\r\n\r\n" % (SIZE, PICTURE)), True),
    "chunk sizes with spaces": Answer(_chunked(b"%x   \r\n%s\r\n0\r\n\r\n" % (SIZE, PICTURE)), True),
    "chunk sizes with zeros": Answer(_chunked(b"0000%X\r\n%s\r\n000\r\n\r\n" % (SIZE, PICTURE)), True),
    "chunks in bare line feeds": Answer(_chunked(b"%x\n%s\n0\n\n" % (SIZE, PICTURE)), True),
    "chunks with a trailer": Answer(_chunked(_TWO + b"0\r\nX-Sum: 1\r\n\r\n"), True),
    "chunks with an odd trailer": Answer(_chunked(_TWO + b"0\r\nno colon\r\n\r\n"), True),
    "last chunk without its empty line": Answer(_chunked(_TWO + b"0\r\n"), False),
    "more after the last chunk": Answer(_chunked(_TWO + b"0\r\n\r\n<!-- cached -->"), True),
    "chunked in capitals": Answer(_answer(TYPE, b"Transfer-Encoding: Chunked", body=_TWO + b"0\r\n\r\n"), True),
    "chunked twice": Answer(_chunked(_TWO + b"0\r\n\r\n", b"Transfer-Encoding: chunked"), True),
    "transfer coding identity": Answer(_with(b"Transfer-Encoding: identity"), True),
    "chunks cut off": Answer(_chunked(_TWO), False),
    # codings
    "aws-chunked": Answer(_with(b"Content-Encoding: aws-chunked"), True),
    "utf-8": Answer(_with(b"Content-Encoding: utf-8"), True),
    "none": Answer(_with(b"Content-Encoding: none"), True),
    "identity": Answer(_with(b"Content-Encoding: identity"), True),
    "binary": Answer(_with(b"Content-Encoding: binary"), True),
    "unknown": Answer(_with(b"Content-Encoding: UTF-8, unknown"), True),
    "a media type": Answer(_with(b"Content-Encoding: image/png"), True),
    "empty coding": Answer(_with(b"Content-Encoding:"), True),
    "gzip": Answer(_coded(b"gzip", _CODED), True),
    "x-gzip": Answer(_coded(b"x-gzip", _CODED), True),
    "deflate": Answer(_coded(b"deflate", zlib.compress(PICTURE)), True),
    "deflate without its header": Answer(_coded(b"deflate", _RAW_DEFLATE), True),
    "gzip, wrong checksum": Answer(_coded(b"gzip", _CODED[:-8] + b"\1\2\3\4" + _CODED[-4:]), True),
    "gzip, wrong size": Answer(_coded(b"gzip", _CODED[:-4] + b"\1\2\3\4"), True),
    "gzip without its size": Answer(_coded(b"gzip", _CODED[:-4]), True),
    "gzip without its end": Answer(_coded(b"gzip", _CODED[:-8]), True),
    "gzip in chunks without its end": Answer(
        _answer(TYPE, b"Content-Encoding: gzip", b"Transfer-Encoding: chunked",
                body=b"%x\r\n%s\r\n0\r\n\r\n" % (len(_CODED) - 8, _CODED[:-8])), True
    ),
    "gzip and more": Answer(_coded(b"gzip", _CODED + b"<!-- cached -->"), True),
    "gzip with a name": Answer(_coded(b"gzip", _gzip_header(8, b"a.png\0")), True),
    "gzip with a wrong checksum of its header": Answer(_coded(b"gzip", _gzip_header(2, b"\0\0")), True),
    "gzip with reserved flags": Answer(_coded(b"gzip", _gzip_header(0xE0, b"")), True),
    "gzip with all fields": Answer(_coded(b"gzip", _gzip_header(31, b"\3\0abcname\0comment\0\0\0")), True),
    "gzip twice": Answer(_coded(b"gzip, gzip", gzip.compress(_CODED, mtime=0)), True),
    "deflate without its checksum": Answer(_coded(b"deflate", zlib.compress(PICTURE)[:-4]), True),
    "deflate with half a checksum": Answer(_coded(b"deflate", zlib.compress(PICTURE)[:-2]), True),
    "deflate, wrong checksum": Answer(_coded(b"deflate", zlib.compress(PICTURE)[:-2] + b"\1\2"), False),
    "gzip of another method": Answer(_coded(b"gzip", _CODED[:2] + b"\7" + _CODED[3:]), False),
    "gzip and aws-chunked": Answer(_coded(b"aws-chunked,gzip", _CODED), False, ours=True),
    # types
    "no type": Answer(_answer(LENGTH), True),
    "type text/html": Answer(_answer(b"Content-Type: text/html", LENGTH), True),
    "type of a list": Answer(_answer(b"Content-Type: image/png, image/png", LENGTH), True),
    "type without a slash": Answer(_answer(b"Content-Type: png", LENGTH), True),
    "type twice": Answer(_with(b"Content-Type: application/octet-stream"), True),
    # 206 to a request without a range
    "206": Answer(_part(b"bytes 0-%d/%d" % (SIZE - 1, SIZE)), True),
    "206 in capitals": Answer(_part(b"Bytes 0-%d/%d" % (SIZE - 1, SIZE)), True),
    "206 of an unknown size": Answer(_part(b"bytes 0-%d/*" % (SIZE - 1)), True),
    "206 without a range": Answer(_answer(TYPE, LENGTH, status=_PARTIAL), True),
    "206 with an odd range": Answer(_part(b"all of it"), True),
    "206 without a length": Answer(
        _answer(TYPE, b"Content-Range: bytes 0-%d/%d" % (SIZE - 1, SIZE), status=_PARTIAL), True
    ),
    "206 in gzip": Answer(
        _part(b"bytes 0-%d/%d" % (len(_CODED) - 1, len(_CODED)), b"Content-Encoding: gzip", body=_CODED), True
    ),
    "200 with a range": Answer(_with(b"Content-Range: bytes 0-9/%d" % SIZE), True),
    "206 of the first bytes": Answer(_part(b"bytes 0-39/%d" % SIZE, body=PICTURE[:40]), False),
    "206 of several parts": Answer(
        _answer(b"Content-Type: multipart/byteranges; boundary=b", status=_PARTIAL,
                body=b"--b\r\n" + TYPE + b"\r\n\r\n" + PICTURE + b"\r\n--b--\r\n"), False
    ),
    # Chromium shows what there is of a picture; a dataset must not hold a part of one
    "gzip cut off": Answer(_coded(b"gzip", _CODED[:-12]), True, ours=False),
    "deflate cut off": Answer(_coded(b"deflate", zlib.compress(PICTURE)[:-12]), True, ours=False),
    "206 of more than it has": Answer(_part(b"bytes 0-999/1000"), True, ours=False),
    "206 of the first bytes of more": Answer(_part(b"bytes 0-%d/1000" % (SIZE - 1)), True, ours=False),
    "206 of the last bytes": Answer(_part(b"bytes 10-%d/%d" % (SIZE + 9, SIZE + 10)), True, ours=False),
    # refused by both
    "NUL in a value": Answer(_with(b"X-Tag: a\0b"), False),
    "another protocol": Answer(b"SSH-2.0-OpenSSH_9.6\r\n", False),
    "nothing": Answer(b"", False),
}  # fmt: skip
