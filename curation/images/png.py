"""PNG: what its chunks state, and its first picture as a file of nothing but pixels.

Of the chunks that say which colours are meant, cICP comes before iCCP, that before sRGB, and that before gAMA with cHRM
(PNG, third edition, 4.3).  A chunk that concerns no pixel may be broken; one whose checksum is wrong says nothing.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from curation.images.exif import exif_orientation
from curation.images.fields import MAX_ICC_BYTES, Header, be16, be32, space_of
from curation.images.profiles import Primaries, profile_of_code, profile_of_gamma

#: Types of colour, in IHDR.
_GREY, _PALETTE, _GREY_ALPHA = 0, 3, 4

#: Bytes of pixels that are held to count their rows.
_INFLATED_BYTES = 2**20

#: The chunks that are needed for the pixels.
_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")

#: The chunks that say something about all of the picture.
_SAID = (b"acTL", b"eXIf", b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM")


class PngPicture(NamedTuple):
    """The first picture: a PNG of only the chunks in `_PIXELS`, and where it lies on the canvas.

    key: the samples, of 16 bits, that mean transparent (from a tRNS chunk that is left out of `file`), or None.
    """

    file: bytes
    left: int = 0
    top: int = 0
    key: tuple[int, ...] | None = None


class _Chunk(NamedTuple):
    name: bytes
    start: int
    end: int

    def body(self, data: bytes) -> bytes:
        return data[self.start : self.end]

    def sound(self, data: bytes) -> bool:
        """Whether its checksum is right."""
        return zlib.crc32(data[self.start - 4 : self.end]) == be32(data, self.end)


def _chunks(data: bytes) -> Iterator[_Chunk]:
    at = 8
    while at + 8 <= len(data):
        length, name = be32(data, at), data[at + 4 : at + 8]
        yield _Chunk(name, at + 8, at + 8 + length)
        if name == b"IEND":
            return
        at += 12 + length


def read_png(data: bytes) -> Header:
    """The header of a PNG; raises ValueError as `read_header` does."""
    if len(data) < 33 or data[8:16] != b"\0\0\0\rIHDR":
        raise ValueError("a PNG that does not begin with IHDR")
    found: dict[bytes, bytes] = {}
    frames = 1
    for chunk in _chunks(data):
        if chunk.name == b"IDAT":
            break
        if chunk.name in _SAID and chunk.name not in found and chunk.sound(data):
            found[chunk.name] = chunk.body(data)
    if len(control := found.get(b"acTL", b"")) == 8:
        frames = max(1, be32(control, 0))
    orientation = exif_orientation(found.get(b"eXIf", b"")) or 1
    return Header(be32(data, 16), be32(data, 20), frames, orientation, tuple(_profiles(found, data[25])))


def _profiles(found: dict[bytes, bytes], colour: int) -> Iterator[bytes]:
    code = found.get(b"cICP", b"")
    # The samples of a PNG are RGB or grey, so its matrix is the identity; browsers take no narrow range either.
    if len(code) == 4 and code[2:] == b"\0\1" and (named := profile_of_code(code[0], code[1])) is not None:
        yield from filter(None, [named])
        return
    spaces = (b"GRAY", b"RGB ") if colour in (_GREY, _GREY_ALPHA) else (b"RGB ",)
    if space_of(profile := _inflated(found.get(b"iCCP", b""))) in spaces:
        yield profile
    if b"sRGB" in found:
        return
    if len(gamma := found.get(b"gAMA", b"")) == 4 and be32(gamma, 0):
        primaries = None
        if len(body := found.get(b"cHRM", b"")) == 32:
            white, red, green, blue = ((x / 100_000, y / 100_000) for x, y in struct.iter_unpack(">2I", body))
            primaries = Primaries(red, green, blue, white)
        if profile := profile_of_gamma(100_000 / be32(gamma, 0), primaries):
            yield profile


def _inflated(chunk: bytes) -> bytes:
    """The profile of an iCCP chunk (name, NUL, method, deflate stream); b"" if broken or too large."""
    _, _, rest = chunk.partition(b"\0")
    try:
        profile = zlib.decompressobj().decompress(rest[1:], MAX_ICC_BYTES + 1)
    except zlib.error:
        return b""
    return profile if len(profile) <= MAX_ICC_BYTES else b""


def first_png_picture(data: bytes) -> PngPicture:
    """The first picture of a PNG that `read_png` has read; in an animation, its first frame.

    Raises ValueError for one that is cut short.
    """
    depth, colour = data[24], data[25]
    animated = False
    frame: bytes | None = None  # the control chunk of a first frame that is not the default image
    kept: list[bytes] = [data[:8]]
    rows: list[bytes] = []
    key: tuple[int, ...] | None = None
    seen_rows = False
    for chunk in _chunks(data):
        name, body = chunk.name, memoryview(data)[chunk.start : chunk.end]
        if name == b"acTL" and not seen_rows:
            animated = chunk.sound(data)
        elif name == b"fcTL" and animated:
            if not seen_rows:
                animated = False  # the default image is the first frame
            elif frame is not None:
                break
            elif len(body) == 26 and chunk.sound(data):
                frame = bytes(body)
        elif name == b"fdAT" and frame is not None:
            if not chunk.sound(data):
                raise ValueError("a frame of the PNG has a wrong checksum")
            rows.append(bytes(body[4:]))
        elif name == b"tRNS" and colour != _PALETTE:
            if not chunk.sound(data):
                raise ValueError("the transparency of the PNG has a wrong checksum")
            key = tuple(be16(bytes(body), at) for at in range(0, min(len(body), 6) - 1, 2))
        elif name in _PIXELS:
            seen_rows = seen_rows or name == b"IDAT"
            kept.append(data[chunk.start - 8 : chunk.end + 4])
    if frame is None or not rows:
        pixels = [piece[8:-4] for piece in kept[1:] if piece[4:8] == b"IDAT"]
        _require_rows(pixels, be32(data, 16), be32(data, 20), data[24:29])
        if colour == _PALETTE and not any(piece[4:8] == b"PLTE" for piece in kept[1:]):
            raise ValueError("the PNG has no palette")
        return PngPicture(b"".join(kept), key=_whole_key(key, depth, colour))
    width, height, left, top = struct.unpack_from(">4I", frame, 4)
    if left + width > be32(data, 16) or top + height > be32(data, 20):
        raise ValueError("a frame of the PNG reaches beyond its canvas")
    _require_rows(rows, width, height, data[24:29])
    head = struct.pack(">2I", width, height) + data[24:29]
    others = [piece for piece in kept[1:] if piece[4:8] in (b"PLTE", b"tRNS")]
    file = [data[:8], _chunk(b"IHDR", head), *others, _chunk(b"IDAT", b"".join(rows)), _chunk(b"IEND", b"")]
    return PngPicture(b"".join(file), left, top, _whole_key(key, depth, colour))


#: Samples of a pixel, by type of colour.
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def _require_rows(pixels: list[bytes], width: int, height: int, rest: bytes) -> None:
    """Raise ValueError if a picture's stream ends, in order, before its last row: Pillow leaves what is missing black.

    pixels: the content of its IDAT chunks.  rest: of IHDR, behind the size.  Interlaced ones are left to Pillow.
    """
    depth, colour, interlaced = rest[0], rest[1], rest[4]
    if interlaced or colour not in _SAMPLES:
        return
    missing = height * (1 + (width * depth * _SAMPLES[colour] + 7) // 8)
    stream = zlib.decompressobj()
    try:
        for piece in pixels:
            while piece and missing > 0 and not stream.eof:
                missing -= len(stream.decompress(piece, _INFLATED_BYTES))
                piece = stream.unconsumed_tail
    except zlib.error as error:
        raise ValueError(f"the pixels of the PNG are damaged: {error}") from error
    missing -= len(stream.flush()) if missing > 0 and not stream.eof else 0
    if missing > 0:
        raise ValueError("the PNG has fewer rows than its header says")


def _whole_key(key: tuple[int, ...] | None, depth: int, colour: int) -> tuple[int, ...] | None:
    """A key as samples of 8 bits, or of 16 if the picture has those; None if it does not fit the picture."""
    if key is None or len(key) != {_GREY: 1, 2: 3}.get(colour) or any(sample >> depth for sample in key):
        return None
    return tuple(sample * 255 // ((1 << depth) - 1) for sample in key) if depth < 8 else key


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
