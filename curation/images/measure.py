"""Measurements of a picture that the filter and deduplicate stages use, from small copies of it."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

#: Longer side, in pixels, of the grey copy that is measured: sharpness depends on the scale, so it is measured at one
#: scale whatever `image.size` and `image.resize` are.
WORKING_SIDE = 256

_HASH_SIDE = 32  # the picture's side when it is transformed

#: A picture none of whose 64 coefficients is larger is plain.  Of one colour or a gradient, they are up to 2.4 after
#: WebP of quality 30 and 0.7 after JPEG; of 200 drawings, the largest of each is 86 or more.
_PLAIN = 8.0


def grey_copy(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGB uint8 [H, W, 3] -> luma uint8 [h, w] with max(h, w) = WORKING_SIDE."""
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    height, width = grey.shape
    scale = WORKING_SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    # Two bilinear taps see every pixel down to half the size; below that, only averaging does.
    resized = cv2.resize(grey, size, interpolation=cv2.INTER_AREA if scale < 0.5 else cv2.INTER_LINEAR)
    return np.asarray(resized, np.uint8)


def perceptual_hash(grey: NDArray[np.uint8]) -> int:
    """64-bit DCT hash: which of the 8x8 lowest frequencies, without the constant ones, exceed their median.

    The first row and column of the transform are left out (as in Zauner, Implementation and Benchmarking of Perceptual
    Image Hash Functions, 2010, sec. 3.2.1), so that a change of brightness or a gradient of light changes no bit.
    Similar pictures differ in few bits (Hamming distance).  The hash of a plain picture is 0, not its codec's noise.
    """
    small = cv2.resize(grey, (_HASH_SIDE, _HASH_SIDE), interpolation=cv2.INTER_AREA)
    low = cv2.dct(small.astype(np.float32))[1:9, 1:9].ravel()
    if np.abs(low).max() < _PLAIN:
        return 0
    middle = np.sort(low)[31:33]
    return int.from_bytes(np.packbits(low > (middle[0] + middle[1]) / 2).tobytes(), "big")


def colour_layout(pixels: NDArray[np.uint8]) -> bytes:
    """RGB uint8 [H, W, 3] -> half the mean luma, the mean Cb and Cr (JFIF) of each of 8 x 8 equal parts, row by row.

    For pictures that `perceptual_hash` cannot tell apart, which sees no colour.  Over 128 drawings and textures, no
    part is more than 6 levels off in a copy that is a third as wide or JPEG or WebP of quality 20; of copies in 64
    colours, a fifth have a part that is more than 8 off.
    """
    # Halved first, which is the mean of 2 x 2 pixels: averaging areas of any size takes five times as long.
    while min(pixels.shape[:2]) >= 128:
        pixels = cv2.resize(pixels, (pixels.shape[1] // 2, pixels.shape[0] // 2), interpolation=cv2.INTER_LINEAR)
    parts = cv2.resize(pixels, (8, 8), interpolation=cv2.INTER_AREA).astype(np.float32)
    luma, cr, cb = cv2.split(cv2.cvtColor(parts / 255, cv2.COLOR_RGB2YCrCb))
    layout = np.stack([luma / 2, cb, cr], -1) * 255
    return layout.round().clip(0, 255).astype(np.uint8).tobytes()


def sharpness(grey: NDArray[np.uint8]) -> float:
    """Variance of the Laplacian, in squared grey levels: under about 100 is blurred (Pech-Pacheco et al., 2000)."""
    _, deviation = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S))
    return float(deviation[0, 0]) ** 2


def entropy(grey: NDArray[np.uint8]) -> float:
    """Shannon entropy of the histogram of grey levels, 0 (one level) to 8 bits."""
    counts = cv2.calcHist([grey], [0], None, [256], [0, 256])
    share = counts[counts > 0] / grey.size
    return max(0.0, float(-(share * np.log2(share)).sum()))
