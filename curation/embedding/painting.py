"""Parts of a picture painted over with the colour around them, so that a model sees it as if nothing stood there."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from pairmill.pixels import Pixels

#: How far around a part its colour is taken from, as a share of its shorter side, and the least of it in pixels.
_AROUND, _LEAST = 0.25, 2


def paint_over(pixels: Pixels, outlines: Sequence[npt.NDArray[np.floating]]) -> Pixels:
    """A copy of a picture, RGB uint8 [H, W, 3], each part in the mean colour of the pixels around it.

    outlines: the corners [N, 2] of each convex part, x and y as shares of width and height.
    Pixels of other parts do not count as around; where there are no others, the mean is that of the whole rest of the
    picture, or of the picture if nothing is left of it.
    """
    height, width = pixels.shape[:2]
    found = pixels.copy()
    corners = [np.round(one * [width, height]).astype(np.int32) for one in outlines]
    parts = np.zeros((height, width), np.uint8)
    for one in corners:
        cv2.fillConvexPoly(parts, one, 1)
    for one in corners:
        x, y, w, h = cv2.boundingRect(one)
        around = max(_LEAST, round(_AROUND * min(w, h)))
        window = np.s_[max(0, y - around) : y + h + around, max(0, x - around) : x + w + around]
        part = np.zeros((height, width), np.uint8)[window]
        cv2.fillConvexPoly(part, one - [window[1].start, window[0].start], 1)
        near = cv2.dilate(part, np.ones((2 * around + 1, 2 * around + 1), np.uint8)).astype(bool)
        ring = pixels[window][near & (parts[window] == 0)]
        if not len(ring):
            ring = pixels[parts == 0] if (parts == 0).any() else pixels.reshape(-1, 3)
        found[window][part.astype(bool)] = (ring.sum(axis=0, dtype=np.int64) + len(ring) // 2) // len(ring)
    return found
