"""Encoded pictures to pixels: what storing a picture and reading it for training have in common.

libjpeg-turbo decodes JPEG, at 1/2, 1/4 or 1/8 of the size for a fraction of the cost; Pillow decodes the rest, which is
put on white.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

#: uint8 [H, W, C]; C = 3 is RGB, C = 4 is CMYK (0 = no ink).
Pixels: TypeAlias = NDArray[np.uint8]

#: Reductions that libjpeg-turbo has SIMD code for: the others (7/8 … 3/8) take longer than decoding in full.
_REDUCTIONS = (8, 4, 2)

# Decoders run one per core: OpenCV's own threads would compete with them.
cv2.setNumThreads(1)


def largest_reduction(fits: Callable[[int], bool]) -> int:
    """The largest of 8, 4, 2 that `fits`, else 1 (no reduction)."""
    return next((reduction for reduction in _REDUCTIONS if fits(reduction)), 1)


def decode_jpeg(data: bytes, size: tuple[int, int], reduction: int, colours: str = "RGB") -> Pixels:
    """A JPEG at 1/reduction of its size, rounded up: uint8 [H, W, 3], or [H, W, 4] for the colours CMYK, as stored.

    size: (height, width) by its header.
    Raises ValueError for damaged or missing data, which libjpeg would fill with grey, and for the few valid files that
    simplejpeg does not support.
    """
    options: dict[str, Any] = {}
    if reduction > 1:
        options = {"min_height": -(-size[0] // reduction), "min_width": -(-size[1] // reduction)}
        if colours == "RGB":
            # A reduced picture is one step from its stored size.  Plain chroma upsampling changes nothing then, and the
            # fast inverse DCT costs 0.4 dB after encoding; together they save 0.6 ms of 4.2 on 1 MP.
            options |= {"fastupsample": True, "fastdct": True}
    return np.asarray(simplejpeg.decode_jpeg(data, colours, **options))


def on_white(image: Image.Image) -> Image.Image:
    """RGB of 8 bits: transparent pixels become white, 16-bit samples keep their upper eight bits."""
    if image.mode.startswith("I"):
        # Pillow's own conversion to 8 bits clips 16-bit greys at 255.
        samples = np.asarray(image)
        upper = (samples.astype(np.uint16) >> 8).astype(np.uint8)
        # It does not see either that one grey may be transparent.
        if isinstance(hidden := image.info.get("transparency"), int):
            upper[samples == hidden] = 255
        return Image.fromarray(upper).convert("RGB")
    if image.has_transparency_data:
        layer = image if image.mode == "RGBA" else image.convert("RGBA")
        image = Image.new("RGB", layer.size, "white")
        image.paste(layer, mask=layer.getchannel("A"))
    return image.convert("RGB")
