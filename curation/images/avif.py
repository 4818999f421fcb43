"""AVIF: what its boxes state (ISO/IEC 14496-12 and 23008-12)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from curation.images.fields import MAX_ICC_BYTES, Header, be16, be32, space_of
from curation.images.profiles import profile_of_code

#: Boxes that hold others, and where in their payload those begin.
_NESTED = {b"meta": 4, b"iprp": 0, b"ipco": 0, b"moov": 0, b"trak": 0, b"mdia": 0, b"minf": 0, b"stbl": 0}

_MAX_BOXES = 10_000

#: Transfers of ITU-T H.273: those of BT.709, BT.601 and BT.2020, and that of sRGB.
_CAMERAS, _SRGB_CURVE = (1, 6, 14, 15), 13

#: irot (quarter turns anticlockwise), then imir (0: top to bottom, 1: left to right), as Exif orientations.
_ORIENTATIONS: dict[tuple[int, int | None], int] = {
    **{(0, None): 1, (1, None): 8, (2, None): 3, (3, None): 6},
    **{(0, 0): 4, (1, 0): 5, (2, 0): 2, (3, 0): 7},
    **{(0, 1): 2, (1, 1): 7, (2, 1): 4, (3, 1): 5},
}


class _Box(NamedTuple):
    name: bytes
    start: int
    end: int


def brands(head: bytes) -> tuple[bytes, ...]:
    """The brands of an ISO media file of which this is the beginning, the major one first; () for anything else."""
    if head[4:8] != b"ftyp":
        return ()
    end = min(be32(head, 0), len(head))
    return (head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4)))


def is_avif(head: bytes) -> bool:
    """Whether a file that begins so is an AVIF, still or moving."""
    return any(brand in (b"avif", b"avis") for brand in brands(head))


def read_avif(data: bytes) -> Header:
    """The header of an AVIF; raises ValueError as `read_header` does.

    As in browsers, its own properties turn it, and an Exif block does not.
    """
    properties: list[_Box] = []
    associations: dict[int, list[int]] = {}
    primary = 0
    frames = 1
    # A grid's tiles have sizes too, and so have thumbnails; the largest claim is the one to hold against the cap.
    width = height = 0
    for box, parent in _boxes(data, 0, len(data), b"", [_MAX_BOXES]):
        if parent == b"ipco":
            properties.append(box)
        if box.name == b"pitm":
            primary = (
                be32(data, box.start + 4) if data[box.start : box.start + 1] > b"\0" else be16(data, box.start + 4)
            )
        elif box.name == b"ipma" and box.end - box.start >= 8:
            associations |= _associations(data, box)
        elif box.name == b"ispe" and box.end - box.start >= 12:
            width, height = max(width, be32(data, box.start + 4)), max(height, be32(data, box.start + 8))
        elif box.name == b"tkhd" and box.end - box.start >= 84:
            width = max(width, be16(data, box.end - 8))
            height = max(height, be16(data, box.end - 4))
        elif box.name == b"stsz" and box.end - box.start >= 12:
            frames = max(frames, be32(data, box.start + 8))
    own = [properties[at - 1] for at in associations.get(primary, []) if 0 < at <= len(properties)]
    return Header(width, height, frames, _orientation(data, own), tuple(_profiles(data, own)))


def _boxes(data: bytes, at: int, end: int, parent: bytes, budget: list[int]) -> Iterator[tuple[_Box, bytes]]:
    """Every box, with the name of the one around it."""
    while at + 8 <= end:
        budget[0] -= 1
        if budget[0] < 0:
            raise ValueError("an AVIF of too many boxes")
        length, name, start = be32(data, at), data[at + 4 : at + 8], at + 8
        if length == 1:
            length, start = int.from_bytes(data[at + 8 : at + 16], "big"), at + 16
        elif length == 0:
            length = end - at
        if length < start - at or at + length > end:
            if name == b"mdat" or not parent:  # cut short, which the decoder will find, or bytes behind the picture
                return
            raise ValueError("an AVIF box runs past the end of the one around it")
        yield _Box(name, start, at + length), parent
        if name in _NESTED:
            yield from _boxes(data, start + _NESTED[name], at + length, name, budget)
        at += length


def _associations(data: bytes, box: _Box) -> dict[int, list[int]]:
    """Item -> numbers of its properties, from 1, in the order in which they apply."""
    version, wide = data[box.start], data[box.start + 3] & 1
    at, found = box.start + 8, {}
    for _ in range(be32(data, box.start + 4)):
        if at + 3 > box.end:
            break
        item, at = (be16(data, at), at + 2) if version < 1 else (be32(data, at), at + 4)
        count, at = data[at] if at < box.end else 0, at + 1
        step = 2 if wide else 1
        numbers = [be16(data, at + step * n) & 0x7FFF if wide else data[at + n] & 0x7F for n in range(count)
                   if at + step * (n + 1) <= box.end]  # fmt: skip
        found[item] = numbers
        at += step * count
    return found


def _orientation(data: bytes, properties: list[_Box]) -> int:
    turn, mirror = 0, None
    for box in properties:
        if box.name == b"irot" and box.start < box.end:
            turn = data[box.start] & 3
        elif box.name == b"imir" and box.start < box.end:
            mirror = data[box.start] & 1
    return _ORIENTATIONS[turn, mirror]


def _profiles(data: bytes, properties: list[_Box]) -> Iterator[bytes]:
    codes: list[bytes | None] = []
    for box in properties:
        if box.name != b"colr":
            continue
        kind, body = data[box.start : box.start + 4], data[box.start + 4 : min(box.end, box.start + MAX_ICC_BYTES)]
        if kind in (b"prof", b"rICC") and space_of(body) == b"RGB ":
            yield body
        elif kind == b"nclx" and len(body) >= 4:
            primaries, transfer = be16(body, 0), be16(body, 2)
            # As in Chromium: stills that say the curve of a camera were made for the screen.
            codes.append(profile_of_code(primaries, _SRGB_CURVE if transfer in _CAMERAS else transfer))
    yield from filter(None, codes[:1])
