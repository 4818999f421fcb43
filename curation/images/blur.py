"""Blur parts of a picture so that nobody is recognised, as DataComp does with faces."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import ceil, floor

import cv2
import numpy as np

from pairmill.pixels import Pixels

#: By how much of its longer side a box grows on each side, and the standard deviation of the blur in it.  Both are
#: those of Yang et al. 2021, "A Study of Face Obfuscation in ImageNet", which DataComp's downloads follow
#: (img2dataset's `BoundingBoxBlurrer`).  There, the largest box of a picture sets the blur of all, by which the mask
#: of a small face beside a large one all but vanishes; here, each box has its own.
_GROWTH, _SIGMA = 0.1, 0.1

#: Standard deviations at which the Gaussian is cut off, as in that work's code.
_REACH = 4

#: Pixels.  A smaller deviation changes nothing that could be seen.
_LEAST_SIGMA = 1.0


def blur_boxes(pixels: Pixels, boxes: Iterable[Mapping[str, float]]) -> Pixels:
    """A copy of a picture, RGB uint8 [H, W, 3], blurred in its boxes and softly towards their edges.

    boxes: left, top, right and bottom of each, as shares of width and height.
    The same in every run and on every machine: all of it is integer arithmetic.
    """
    found = pixels.copy()
    height, width = pixels.shape[:2]
    for box in boxes:
        left, right = box["left"] * width, box["right"] * width
        top, bottom = box["top"] * height, box["bottom"] * height
        longer = max(right - left, bottom - top)
        sigma, grown = max(_LEAST_SIGMA, _SIGMA * longer), _GROWTH * longer
        reach = ceil(_REACH * sigma)
        columns = _span(left - grown, right + grown, width)
        rows = _span(top - grown, bottom + grown, height)
        # The mask ends `reach` outside of the box, and its pixels are made from those `reach` around them.
        x, y = max(0, columns.start - 2 * reach), max(0, rows.start - 2 * reach)
        part = found[y : rows.stop + 2 * reach, x : columns.stop + 2 * reach]
        mask = np.zeros(part.shape[:2], np.uint8)
        mask[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x] = 255
        kernel = (2 * reach + 1, 2 * reach + 1)
        soft = cv2.GaussianBlur(mask, kernel, sigma).astype(np.uint32)[..., None]
        blurred = cv2.GaussianBlur(part, kernel, sigma)
        part[:] = (part * (255 - soft) + blurred * soft + 127) // 255
    return found


def _span(first: float, last: float, most: int) -> slice:
    """The whole pixels that an edge to edge touches, within 0 to `most`."""
    return slice(min(max(0, floor(first)), most), min(max(0, ceil(last)), most))
