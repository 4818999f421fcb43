"""What every reader of a header gives, and the numbers in it."""

from __future__ import annotations

from typing import NamedTuple

#: The largest ICC profile we use; CMYK press profiles are the largest in practice, at about 0.6 MB.
MAX_ICC_BYTES = 1 << 20


class Header(NamedTuple):
    """width, height: pixels as stored, before `orientation`.  orientation: 1-8, as Exif numbers them.

    profiles: ICC profiles of the picture's colours, of which the first that can be used counts; none: sRGB.
    """

    width: int
    height: int
    frames: int = 1
    orientation: int = 1
    profiles: tuple[bytes, ...] = ()


def space_of(profile: bytes) -> bytes:
    """The colour space that an ICC profile is for: b"RGB ", b"GRAY", b"CMYK", …"""
    return profile[16:20]


def be16(data: bytes, at: int) -> int:
    """The big-endian number of 16 bits at a place."""
    return int.from_bytes(data[at : at + 2], "big")


def be32(data: bytes, at: int) -> int:
    """The big-endian number of 32 bits at a place."""
    return int.from_bytes(data[at : at + 4], "big")


def le16(data: bytes, at: int) -> int:
    """The little-endian number of 16 bits at a place."""
    return int.from_bytes(data[at : at + 2], "little")


def le24(data: bytes, at: int) -> int:
    """The little-endian number of 24 bits at a place."""
    return int.from_bytes(data[at : at + 3], "little")


def le32(data: bytes, at: int) -> int:
    """The little-endian number of 32 bits at a place."""
    return int.from_bytes(data[at : at + 4], "little")
