"""JPEG: what its header states, and how to read a file with bytes in it that concern no pixel."""

from __future__ import annotations

import re
from collections.abc import Iterator

from curation.images.exif import exif_orientation
from curation.images.fields import MAX_ICC_BYTES, Header, be16, space_of

_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # start of frame; the three others are DHT, JPG and DAC
_BARE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length: TEM, RST0-7, SOI
_SOS, _EOI, _APP0, _APP1, _APP2, _APP14, _COM = 0xDA, 0xD9, 0xE0, 0xE1, 0xE2, 0xEE, 0xFE
_RESTARTS = range(0xD0, 0xD8)

#: The spaces of profiles that fit a frame of so many components.
_SPACES = {1: (b"GRAY", b"RGB "), 3: (b"RGB ",), 4: (b"CMYK",)}

#: libjpeg's warnings about bytes between segments and about segments without pixels (jerror.h).
_HARMLESS = re.compile(
    r"extraneous bytes before marker|bad ICC marker|unknown JFIF revision number|Unknown Adobe color transform code"
)
#: libjpeg's warning about a file without an end marker, and about one that was cut off.
NO_END = "Premature end of JPEG file"
_STRAY = re.compile(r"(\d+) extraneous bytes before marker 0x([0-9a-f]{2})")

#: What stray bytes behind a scan may be: one byte repeated, a zero, or text.  The end of a damaged scan, for which
#: the decoder has the same warning, is none of these: of 3,421 damaged files, 6 pass.
_PADDING = re.compile(rb"\0|(.)\1+", re.DOTALL)
_TEXT = re.compile(rb"[\t\n\r -~]+")
#: The first bytes behind a scan are in the decoder's buffer, and it does not count them.
_LEAST_TEXT = 6
#: How padding ends.  So do 1 in 200 whole scans, which are given up where the end marker is missing: 1 in 256 ends in
#: \r, and the others end in a bit of one (T.81, F.1.2.3) unless their last code ends with its byte.
_PADDED_END = re.compile(rb"(?:(?<!\xff)\0|[\n\r ])\Z")
#: Frames with arithmetic coding, of which the decoder never says that a scan is not all there.
_ARITHMETIC = frozenset(range(0xC9, 0xD0)) - {0xCC}


def read_jpeg(data: bytes) -> Header:
    """The header of a JPEG; raises ValueError as `read_header` does."""
    size: tuple[int, int] | None = None
    components = 0
    orientation: int | None = None
    parts: dict[int, tuple[int, bytes]] = {}
    for marker, at, end in _segments(data):
        if marker in _SOF and size is None:
            if end - at < 6:
                raise ValueError("the JPEG frame header is too short")
            size, components = (be16(data, at + 3), be16(data, at + 1)), data[at + 5]
        elif marker == _APP1 and data[at : at + 6] == b"Exif\0\0" and orientation is None:
            # As in browsers, the first counts: an editor adds a block, and cameras write only one.
            orientation = exif_orientation(data[at + 6 : end])
        elif marker == _APP2 and data[at : at + 12] == b"ICC_PROFILE\0" and end - at > 14:
            parts.setdefault(data[at + 12], (data[at + 13], data[at + 14 : end]))
    if size is None:
        raise ValueError("a JPEG without a frame header")
    profile = _joined(parts)
    fits = len(profile) <= MAX_ICC_BYTES and space_of(profile) in _SPACES.get(components, ())
    return Header(*size, orientation=orientation or 1, profiles=(profile,) if fits else ())


def _joined(parts: dict[int, tuple[int, bytes]]) -> bytes:
    """A profile from its numbered parts; b"" unless all that each speaks of are there (ICC.1:2010, B.4)."""
    numbers = sorted(parts)
    if numbers != list(range(1, len(parts) + 1)) or any(of != len(parts) for of, _ in parts.values()):
        return b""
    return b"".join(parts[number][1] for number in numbers)


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of every segment's payload up to the first scan, for which it is its header's."""
    at = 2
    while (at := data.find(b"\xff", at)) >= 0:
        while data[at : at + 1] == b"\xff":  # any number of fill bytes may precede a marker
            at += 1
        if at >= len(data):
            return
        marker = data[at]
        at += 1
        if marker == _EOI:
            return
        if marker == 0 or marker in _BARE:
            continue
        if at + 2 > len(data):
            return
        end = at + be16(data, at)
        if end < at + 2 or end > len(data):
            raise ValueError("a JPEG segment runs past the end of the file")
        yield marker, at + 2, end
        if marker == _SOS:
            return
        at = end


def repaired(data: bytes, warning: str, *, padded: bool) -> bytes | None:
    """A file of the same pixels without what libjpeg warned of, if that concerns no pixel; else None.

    warning: libjpeg's text.  It keeps only its last one, so the file that comes out must be decoded as strictly.
    padded: whether there may be padding behind the scans.
    """
    if not _HARMLESS.search(warning):
        return None
    bare = _bare(data)
    if bare != data:
        return bare
    stray = _STRAY.search(warning) if padded else None
    return _without_stray(data, int(stray[1]), int(stray[2], 16)) if stray else None


def _bare(data: bytes) -> bytes:
    """The same picture with nothing between its segments, and without those that say nothing about its pixels."""
    kept = [data[:2]]
    components = 3
    for marker, at, end in _segments(data):
        body = data[at:end]
        if marker in _SOF and len(body) > 5:
            components = body[5]
        if marker == _COM or marker in range(_APP0, 0xF0):
            if marker == _APP0 and body[:5] == b"JFIF\0":
                body = body[:5] + b"\x01\x01" + body[7:]
            elif marker == _APP14 and body[:5] == b"Adobe" and len(body) >= 12:
                # Other transforms are what libjpeg takes them for.
                body = body[:11] + (body[11:12] if body[11] <= 2 else bytes([1 if components == 3 else 2]))
            else:
                continue
        kept.append(bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body)
        if marker == _SOS:
            kept.append(data[end:])
            return b"".join(kept)
    return data


def with_end(data: bytes) -> bytes | None:
    """A file without an end marker (`NO_END`) with one, if its scans are all there; else None.

    That the last scan is whole shows when it is decoded as strictly, and `with_less` is not.  There must be no padding:
    of zeros or text behind a file that was cut off, libjpeg takes as many for pixels as it lacks.
    """
    data = data.rstrip(b"\xff")
    tail = data[-_LEAST_TEXT:]
    if _TEXT.fullmatch(tail) or len(set(tail)) == 1 or _PADDED_END.search(tail):
        return None
    if any(marker in _ARITHMETIC for marker, _, _ in _segments(data)):
        return None
    behind = list(_markers_behind(data))
    if any(data[at + 1] == _EOI for at in behind) or not _scans_suffice(data, behind):
        return None
    return data + bytes([0xFF, _EOI])


def with_less(ended: bytes) -> bytes:
    """What `with_end` made, without the last byte of its scan, which a whole scan cannot do without."""
    scan = ended[:-2]
    return scan[: -2 if scan.endswith(b"\xff\0") else -1] + ended[-2:]


def _scans_suffice(data: bytes, behind: list[int]) -> bool:
    """Whether every bit of every coefficient is in some scan: those of a progressive file each have a part.

    behind: where the markers after the first scan's header stand.
    """
    missing: dict[int, set[int]] = {}  # coefficients by component
    scans = []
    for marker, at, end in _segments(data):
        if marker in _SOF:
            components = data[at + 6 : end : 3]
            missing = {component: set(range(64)) for component in components}
        elif marker == _SOS:
            scans.append(data[at:end])
    scans += [data[at + 4 : at + 2 + be16(data, at + 2)] for at in behind if data[at + 1] == _SOS]
    for scan in scans:
        count = scan[0] if scan else 0
        if not count or len(scan) != 4 + 2 * count:
            return False
        first, last, low = scan[-3], scan[-2], scan[-1] & 15
        for component in scan[1 : 1 + 2 * count : 2]:
            if not low:
                missing.get(component, set()).difference_update(range(first, last + 1))
    return bool(missing) and not any(missing.values())


def _without_stray(data: bytes, count: int, marker: int) -> bytes | None:
    """Without the first `count` bytes of padding that end at this marker, among or behind the scans."""
    for at in _markers_behind(data):
        if data[at + 1] != marker:
            continue
        if _PADDING.fullmatch(data, at - count, at) or _TEXT.fullmatch(data, at - max(count, _LEAST_TEXT), at):
            return data[: at - count] + data[at:]
    return None


def _markers_behind(data: bytes) -> Iterator[int]:
    """Where every marker after the first scan's header stands, up to the end of the image."""
    at = next((end for marker, _, end in _segments(data) if marker == _SOS), len(data))
    while 0 <= (at := data.find(b"\xff", at)) < len(data) - 1:
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker != 0:
            yield at
        if marker == _EOI:
            return
        at += 2 if marker == 0 or marker in _BARE else 2 + be16(data, at + 2)
