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
#: Those that `inflated` decodes.
INFLATED = frozenset({"gzip", "deflate"})

#: Sizes of the window for zlib: gzip or zlib by their own header, and a raw stream, which some send as `deflate`.
_WINDOWS = (zlib.MAX_WBITS | 32, -zlib.MAX_WBITS)


def coding_of(values: list[str]) -> str:
    """The coding that Content-Encoding names, "" if none; several are joined by commas."""
    # RFC 9110, 8.4.1: x-gzip and x-compress are the same as gzip and compress.
    words = (word.strip().lower().removeprefix("x-") for value in values for word in value.split(","))
    return ",".join(word for word in words if word in CODINGS)


def inflated(body: bytes, most: int) -> bytes | None:
    """`body` decoded from gzip or deflate; None if it is neither, is damaged or cut off, or has more than `most` bytes.

    Memory is bounded by `most`, whatever the body claims.
    """
    for window in _WINDOWS:
        decoder = zlib.decompressobj(window)
        try:
            plain = decoder.decompress(body, most + 1)
        except zlib.error:
            continue
        if len(plain) > most or not decoder.eof:
            return None
        return plain
    return None
