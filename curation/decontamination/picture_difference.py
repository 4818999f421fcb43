"""How much two pictures differ, part by part, when one may be cut out of the other.

Both are scaled to a small square.  The difference is that of the worst of 8 x 8 parts, so that a symbol that is only in
one of them counts, however much of the rest is alike: a playing card of two clubs is not one of three.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

#: (left, top, right, bottom), as shares of width and height.
Frame = tuple[float, float, float, float]

#: Side of the square, in pixels, and parts in each direction.
_SIDE, _PARTS = 32, 8
#: Frames are a quarter of a strip apart, so a copy may be cut that far from each: half of it, as a share of the side.
_SHIFTS = (-0.006, 0.0, 0.006)

Square = npt.NDArray[np.float32]


def square(picture: Image.Image, frame: Frame = (0.0, 0.0, 1.0, 1.0)) -> Square:
    """What a frame of a picture shows, float32 RGB [_SIDE, _SIDE, 3]."""
    width, height = picture.size
    left, top, right, bottom = frame
    box = (max(0.0, left) * width, max(0.0, top) * height, min(1.0, right) * width, min(1.0, bottom) * height)
    return np.asarray(picture.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR, box=box), np.float32)


def difference(one: Square, other: Square) -> float:
    """The mean difference, in levels of 255, of that part in which they differ most."""
    by_part = np.abs(one - other).mean(-1).reshape(_PARTS, _SIDE // _PARTS, _PARTS, _SIDE // _PARTS).mean((1, 3))
    return float(by_part.max())


def least_difference(picture: Square, whole: Image.Image, frames: Sequence[Frame]) -> float:
    """The difference of a picture from the most alike of some frames of another one, or from one a little beside it."""
    found = 255.0
    for left, top, right, bottom in frames:
        for x in _SHIFTS:
            for y in _SHIFTS:
                found = min(found, difference(picture, square(whole, (left + x, top + y, right + x, bottom + y))))
    return found


def opened(data: bytes | None) -> Any:
    """An encoded picture, RGB; None if it cannot be decoded."""
    if data is None:
        return None
    try:
        with Image.open(io.BytesIO(data)) as picture:
            return picture.convert("RGB")
    except Exception:  # a codec may raise anything
        return None
