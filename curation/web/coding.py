"""Content-Encoding: which values mean that a body is coded, and decoding within bounds.

A request asks for `identity`.  Servers answer with words that are no coding at all (`aws-chunked`, `utf-8`, `none`,
`binary`), over a plain body; and some have their files in gzip whatever is asked for.
"""

from __future__ import annotations

import zlib

#: The content codings of IANA's registry (RFC 9110, 16.6.1) but `identity`.  Any other value says nothing of the body.
CODINGS = frozenset(
    {
        *("aes128gcm", "br", "compress", "dcb", "dcz", "deflate", "exi", "gzip", "pack200-gzip", "zstd"),
    }
)
#: Those that `inflated` decodes, and how many of them one after the other.
_INFLATED = frozenset({"gzip", "deflate"})
_MOST_CODINGS = 3

#: Sizes of the window for zlib: with zlib's header and checksum, and without.
_ZLIB, _RAW = zlib.MAX_WBITS, -zlib.MAX_WBITS
#: Flags of a gzip header.
_HEADER_CHECKSUM, _EXTRA, _NAME, _COMMENT = 2, 4, 8, 16


def coding_of(values: list[str]) -> str:
    """The coding that Content-Encoding names, "" if none; several are joined by commas."""
    # RFC 9110, 8.4.1: x-gzip and x-compress are the same as gzip and compress.
    words = (word.strip().lower().removeprefix("x-") for value in values for word in value.split(","))
    return ",".join(word for word in words if word in CODINGS)


def is_decoded(coding: str) -> bool:
    """Whether `inflated` decodes it, step by step."""
    codings = coding.split(",")
    return len(codings) <= _MOST_CODINGS and _INFLATED.issuperset(codings)


def inflated(body: bytes, most: int) -> bytes | None:
    """`body` decoded from gzip or deflate; None if it is neither, is damaged or cut off, or has more than `most` bytes.

    As in Chromium, only the data counts of gzip, whose checksum and length at the end may be wrong or missing, and the
    checksum of zlib may be missing.  Memory is bounded by `most`, whatever the body claims.
    """
    start = _behind_gzip_header(body)
    if start is not None:
        return _inflated(body[start:], most, _RAW)
    if (plain := _inflated(body, most, _ZLIB)) is not None:
        return plain
    # zlib without the whole of its checksum, or a raw stream, which some send as `deflate`
    cut = _inflated(body[2:], most, _RAW, behind=3) if _is_zlib(body) else None
    return cut if cut is not None else _inflated(body, most, _RAW)


def _inflated(body: bytes, most: int, window: int, behind: int | None = None) -> bytes | None:
    """behind: how many bytes may follow the stream; None: any."""
    decoder = zlib.decompressobj(window)
    try:
        plain = decoder.decompress(body, most + 1)
    except zlib.error:
        return None
    whole = len(plain) <= most and decoder.eof
    return plain if whole and (behind is None or len(decoder.unused_data) <= behind) else None


def _is_zlib(body: bytes) -> bool:
    """RFC 1950, 2.2: deflate, and a check of the two bytes."""
    return len(body) > 1 and body[0] & 15 == 8 and int.from_bytes(body[:2], "big") % 31 == 0


def _behind_gzip_header(body: bytes) -> int | None:
    """Where the data begins (RFC 1952, 2.3), whatever the header's checksum and reserved flags; None: nowhere."""
    if not body.startswith(b"\x1f\x8b\x08") or len(body) < 10:
        return None
    flags, at = body[3], 10
    if flags & _EXTRA:
        at += 2 + int.from_bytes(body[at : at + 2], "little")
    for text in (_NAME, _COMMENT):
        if flags & text:
            at = body.find(b"\0", at) + 1
            if not at:
                return None
    return at + 2 if flags & _HEADER_CHECKSUM else at
