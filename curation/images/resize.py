"""The geometry of a stored picture: how large it becomes, turned upright, padded or cropped.

The five modes and their arithmetic are those of img2dataset 1.47 (`resize_mode`), so that a list downloaded with it
gives pictures of the same sizes here.
"""

from __future__ import annotations

import cv2
import numpy as np

from curation.images.config import ResizeMode
from pairmill.pixels import Pixels

_SHORTER_SIDE = (
    "keep_ratio",
    "center_crop",
)  # modes that scale the shorter side to the size; the others scale the longer


def target_size(
    width: int, height: int, *, mode: ResizeMode, size: int, only_if_bigger: bool
) -> tuple[int, int] | None:
    """(width, height) to scale a picture to before padding or cropping; None if it stays as it is."""
    if mode == "no":
        return None
    side = min(width, height) if mode in _SHORTER_SIDE else max(width, height)
    if only_if_bigger and side <= size:
        return None
    scale = size / side
    return max(1, round(width * scale)), max(1, round(height * scale))


def scale_to(pixels: Pixels, width: int, height: int) -> Pixels:
    """Area averaging where the picture shrinks, Lanczos over 8x8 pixels where it grows.

    OpenCV's area averaging is fast only for whole ratios.  Up to a ratio of 2 every source pixel also counts in
    bilinear interpolation (48 dB PSNR from plain area averaging over photos, in a quarter of the time); up to 3 the
    picture is scaled to twice the size bilinearly and averaged 2x2 (49 dB, in half the time).
    """
    rows, columns = pixels.shape[:2]
    if (rows, columns) == (height, width):
        return pixels
    if rows <= height and columns <= width:
        return _resize(pixels, width, height, cv2.INTER_LANCZOS4)
    ratios = (rows / height, columns / width)
    if min(ratios) >= 1 and max(ratios) <= 2:
        return _resize(pixels, width, height, cv2.INTER_LINEAR)
    if min(ratios) >= 1.5 and max(ratios) <= 3:
        pixels = _resize(pixels, 2 * width, 2 * height, cv2.INTER_LINEAR)
    return _resize(pixels, width, height, cv2.INTER_AREA)


def _resize(pixels: Pixels, width: int, height: int, interpolation: int) -> Pixels:
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=interpolation), np.uint8)


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """The picture as it should be viewed by EXIF `orientation` (1-8)."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def frame(pixels: Pixels, *, mode: ResizeMode, size: int) -> Pixels:
    """Pad with white to size x size (`border`) or cut the middle out (`center_crop`); other modes change nothing."""
    height, width = pixels.shape[:2]
    if mode == "border":
        top, left = max(0, size - height) // 2, max(0, size - width) // 2
        bottom, right = max(0, size - height) - top, max(0, size - width) - left
        padded = cv2.copyMakeBorder(pixels, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(255, 255, 255))
        return np.asarray(padded, np.uint8)
    if mode == "center_crop":
        top, left = (height - size) // 2, (width - size) // 2
        return np.ascontiguousarray(pixels[top : top + size, left : left + size])
    return pixels
