"""What an image file states about itself, read without decoding it: kind, size, frames, orientation, colour profile.

Every reader walks the container once, allocates nothing in proportion to a size the file claims, and raises
`ValueError` when the header is broken.  A claim may be false: `curation.images.decode` checks it again.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import NamedTuple

#: The largest ICC profile we use; CMYK press profiles are the largest in practice, at about 0.6 MB.
MAX_ICC_BYTES = 1 << 20

_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # start of frame; the three others are DHT, JPG and DAC
_BARE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length: TEM, RST0-7, SOI
_SOS, _EOI, _APP1, _APP2 = 0xDA, 0xD9, 0xE1, 0xE2


class Header(NamedTuple):
    """width, height: pixels as stored, before `orientation`.  orientation: EXIF 1-8.  icc: b"" without a profile."""

    width: int
    height: int
    frames: int = 1
    orientation: int = 1
    icc: bytes = b""


def sniff(head: bytes) -> str | None:
    """`jpeg`, `png`, `webp` or `gif` by the magic bytes (the first 12 suffice), None for anything else."""
    if head[:3] == b"\xff\xd8\xff":
        return "jpeg"
    if head[:8] == b"\x89PNG\r\n\x1a\n":
        return "png"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    return None


def read_header(data: bytes, kind: str, *, max_frames: int) -> Header:
    """The header of `data`, which `sniff` called `kind`; frames are counted up to `max_frames + 1`.

    Raises ValueError if the header is cut short, breaks its format or gives a size of zero.
    """
    if kind == "jpeg":
        header = _jpeg(data)
    elif kind == "png":
        header = _png(data)
    elif kind == "webp":
        header = _webp(data, max_frames)
    else:
        header = _gif(data, max_frames)
    if header.width < 1 or header.height < 1:
        raise ValueError(f"the header gives a size of {header.width}x{header.height}")
    return header


def _jpeg(data: bytes) -> Header:
    size: tuple[int, int] | None = None
    orientation = 1
    icc: dict[int, bytes] = {}
    for marker, at, end in _jpeg_segments(data):
        if marker in _SOF and size is None:
            if end - at < 6:
                raise ValueError("the JPEG frame header is too short")
            size = (_be16(data, at + 3), _be16(data, at + 1))
        elif marker == _APP1 and data[at : at + 6] == b"Exif\0\0":
            orientation = exif_orientation(data[at + 6 : end])
        elif marker == _APP2 and data[at : at + 12] == b"ICC_PROFILE\0" and end - at > 14:
            icc[data[at + 12]] = data[at + 14 : end]
    if size is None:
        raise ValueError("a JPEG without a frame header")
    profile = b"".join(icc[part] for part in sorted(icc))
    return Header(*size, orientation=orientation, icc=profile if len(profile) <= MAX_ICC_BYTES else b"")


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of every segment's payload up to the first scan."""
    at = 2
    while (at := data.find(b"\xff", at)) >= 0:
        while data[at : at + 1] == b"\xff":  # any number of fill bytes may precede a marker
            at += 1
        if at >= len(data):
            return
        marker = data[at]
        at += 1
        if marker in (_SOS, _EOI):
            return
        if marker == 0 or marker in _BARE:
            continue
        if at + 2 > len(data):
            return
        end = at + _be16(data, at)
        if end < at + 2 or end > len(data):
            raise ValueError("a JPEG segment runs past the end of the file")
        yield marker, at + 2, end
        at = end


def _png(data: bytes) -> Header:
    if len(data) < 33 or data[8:16] != b"\0\0\0\rIHDR":
        raise ValueError("a PNG that does not begin with IHDR")
    frames, orientation, icc = 1, 1, b""
    at = 33
    while at + 8 <= len(data):
        length, name = _be32(data, at), data[at + 4 : at + 8]
        at += 8
        if name == b"acTL" and length == 8 and at + 8 <= len(data):
            frames = max(1, _be32(data, at))
        elif name == b"eXIf":
            orientation = exif_orientation(data[at : at + length])
        elif name == b"iCCP":
            icc = _png_profile(data[at : at + length])
        elif name == b"IEND":
            break
        at += length + 4
    return Header(_be32(data, 16), _be32(data, 20), frames, orientation, icc)


def _png_profile(chunk: bytes) -> bytes:
    """The inflated profile of an iCCP chunk (name, NUL, method, deflate stream); b"" if broken or too large."""
    _, _, rest = chunk.partition(b"\0")
    try:
        profile = zlib.decompressobj().decompress(rest[1:], MAX_ICC_BYTES + 1)
    except zlib.error:
        return b""
    return profile if len(profile) <= MAX_ICC_BYTES else b""


def _webp(data: bytes, max_frames: int) -> Header:
    width = height = frames = 0
    orientation, icc = 1, b""
    at = 12
    while at + 8 <= len(data):
        name, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        body = data[at + 8 : at + 24]
        found = (0, 0)
        if name == b"VP8X" and len(body) >= 10:
            found = (1 + _le24(body, 4), 1 + _le24(body, 7))
        elif name == b"VP8 " and len(body) >= 10 and body[3:6] == b"\x9d\x01\x2a":
            found = (_le16(body, 6) & 0x3FFF, _le16(body, 8) & 0x3FFF)
        elif name == b"VP8L" and len(body) >= 5 and body[0] == 0x2F:
            bits = int.from_bytes(body[1:5], "little")
            found = (1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
        elif name == b"ANMF":
            frames += 1
            if frames > max_frames:
                break
        elif name == b"ICCP" and length <= MAX_ICC_BYTES:
            icc = data[at + 8 : at + 8 + length]
        elif name == b"EXIF":
            exif = data[at + 8 : at + 8 + length]
            orientation = exif_orientation(exif.removeprefix(b"Exif\0\0"))
        # The canvas and the picture in it may disagree; the larger claim is the one to hold against the cap.
        width, height = max(width, found[0]), max(height, found[1])
        at += 8 + length + (length & 1)
    return Header(width, height, max(1, frames), orientation, icc)


def _gif(data: bytes, max_frames: int) -> Header:
    if len(data) < 13:
        raise ValueError("a GIF without a screen descriptor")
    width, height = _le16(data, 6), _le16(data, 8)
    at = 13 + _gif_palette_bytes(data[10])
    frames = 0
    while at < len(data) and frames <= max_frames:
        block = data[at]
        if block == 0x21:  # extension: label, then sub-blocks
            at = _skip_sub_blocks(data, at + 2)
        elif block == 0x2C and at + 10 <= len(data):  # image descriptor
            frames += 1
            if frames == 1:
                # The decoder grows the canvas to hold a first frame that reaches beyond the screen.
                width = max(width, _le16(data, at + 1) + _le16(data, at + 5))
                height = max(height, _le16(data, at + 3) + _le16(data, at + 7))
            at = _skip_sub_blocks(data, at + 10 + _gif_palette_bytes(data[at + 9]) + 1)
        else:  # trailer, or not a GIF from here on
            break
    if not frames:
        raise ValueError("a GIF without a frame")
    return Header(width, height, frames)


def _gif_palette_bytes(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _skip_sub_blocks(data: bytes, at: int) -> int:
    while at < len(data) and data[at]:
        at += data[at] + 1
    return at + 1


def exif_orientation(tiff: bytes) -> int:
    """The orientation (1-8) in the first directory of an EXIF block, 1 if there is none or it is broken.

    Only that directory is read, and no offset in it is followed, so that a looping EXIF block costs nothing.
    """
    if tiff[:4] == b"II*\0":
        order = "little"
    elif tiff[:4] == b"MM\0*":
        order = "big"
    else:
        return 1

    def number(at: int, size: int) -> int:
        return int.from_bytes(tiff[at : at + size], order)  # type: ignore[arg-type]  # one of the two literals

    first = number(4, 4)
    for entry in range(first + 2, min(first + 2 + 12 * number(first, 2), len(tiff) - 11), 12):
        if number(entry, 2) == 0x0112:
            value = number(entry + 8, 2)
            return value if 1 <= value <= 8 else 1
    return 1


def _be16(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "big")


def _be32(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "big")


def _le16(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "little")


def _le24(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 3], "little")
