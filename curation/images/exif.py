"""The orientation in an Exif block."""

from __future__ import annotations

from typing import Literal

_ORIENTATION, _SHORT = 0x0112, 3


def exif_orientation(tiff: bytes) -> int | None:
    """The orientation (1-8) in the first directory of an Exif block; None if it has none, or is broken.

    An orientation outside 1-8 is 1.  Only that directory is read, and no offset in it is followed, so that a looping
    block costs nothing.
    """
    order: Literal["little", "big"]
    if tiff[:4] == b"II*\0":
        order = "little"
    elif tiff[:4] == b"MM\0*":
        order = "big"
    else:
        return None

    def number(at: int, size: int) -> int:
        return int.from_bytes(tiff[at : at + size], order)

    first = number(4, 4)
    for entry in range(first + 2, min(first + 2 + 12 * number(first, 2), len(tiff) - 11), 12):
        if number(entry, 2) == _ORIENTATION and number(entry + 2, 2) == _SHORT:
            value = number(entry + 8, 2)
            return value if 1 <= value <= 8 else 1
    return None
