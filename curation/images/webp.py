"""WebP: what its header states."""

from __future__ import annotations

from curation.images.fields import MAX_ICC_BYTES, Header, le16, le24, le32, space_of

_ANIMATION, _ICC = 0x02, 0x20


def read_webp(data: bytes, max_frames: int) -> Header:
    """The header of a WebP; raises ValueError as `read_header` does.

    As in Chromium, an Exif block does not turn it, and a profile is not for animations: the web's WebP files look right
    there.
    """
    width = height = frames = 0
    flags = 0
    profile = b""
    at = 12
    while at + 8 <= len(data):
        name, length = data[at : at + 4], le32(data, at + 4)
        body = data[at + 8 : at + 24]
        found = (0, 0)
        if name == b"VP8X" and len(body) >= 10:
            flags = body[0]
            found = (1 + le24(body, 4), 1 + le24(body, 7))
        elif name == b"VP8 " and len(body) >= 10 and body[3:6] == b"\x9d\x01\x2a":
            found = (le16(body, 6) & 0x3FFF, le16(body, 8) & 0x3FFF)
        elif name == b"VP8L" and len(body) >= 5 and body[0] == 0x2F:
            bits = le32(body, 1)
            found = (1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
        elif name == b"ANMF":
            frames += 1
            if frames > max_frames:
                break
        elif name == b"ICCP" and length <= MAX_ICC_BYTES and flags & (_ICC | _ANIMATION) == _ICC and not profile:
            profile = data[at + 8 : at + 8 + length]
        # The canvas and the picture in it may disagree; the larger claim is the one to hold against the cap.
        width, height = max(width, found[0]), max(height, found[1])
        at += 8 + length + (length & 1)
    return Header(width, height, max(1, frames), profiles=(profile,) if space_of(profile) == b"RGB " else ())
