"""Encoded bytes to pixels of the model's size, as a model that does not learn sees them: uint8 RGB [H, W, 3].

Decodes in full and resizes with Pillow, as `open_clip.image_transform(is_train=False)` does.  Normalisation is the
model's.
"""

from __future__ import annotations

import io

import numpy as np
import simplejpeg
from PIL import Image

from pairmill.pixels import Pixels, decode_jpeg, on_white

#: Pillow's own limit (twice its warning), for every codec: what unpacks to more is an attack or a mistake.
MAX_PIXELS = 178_956_970


class EvalTransform:
    """Bytes to the whole image or its centre at the model's size, as `open_clip.image_transform(is_train=False)`."""

    def __init__(
        self, size: int, *, resize_mode: str = "shortest", interpolation: str = "bicubic", fill_color: int = 0
    ) -> None:
        """size: pixels.  The others are open_clip's preprocess_cfg.

        resize_mode: shortest (the shorter side is scaled to `size`, the longer one cut), longest (the longer side is
        scaled to it, the shorter one padded with `fill_color`), squash (both are).  interpolation: bilinear, or else
        bicubic.
        """
        self.height = self.width = size
        self._mode, self._fill = resize_mode, fill_color
        self._how = Image.Resampling.BILINEAR if interpolation == "bilinear" else Image.Resampling.BICUBIC

    def __call__(self, data: bytes) -> Pixels | None:
        """uint8 [size, size, 3]; None if the image cannot be decoded."""
        pixels = decode(data)
        return None if pixels is None else self.of_pixels(pixels)

    def of_pixels(self, pixels: Pixels) -> Pixels:
        """uint8 [size, size, 3] of a decoded image."""
        image, size = Image.fromarray(pixels), self.height
        shape = self._scaled(image.width, image.height)
        # An image of the right size stays as it is.
        if image.size != shape:
            image = image.resize(shape, self._how)
        if self._mode == "longest":
            padded = Image.new("RGB", (size, size), (self._fill,) * 3)
            padded.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
            return np.asarray(padded)
        left, top = (round((length - size) / 2) for length in image.size)
        return np.asarray(image.crop((left, top, left + size, top + size)))

    def _scaled(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) to resize to."""
        size = self.height
        if self._mode == "squash":
            return size, size
        if self._mode == "longest":
            ratio = max(width, height) / size
            return round(width / ratio), round(height / ratio)
        # torchvision's Resize cuts the longer side down to whole pixels.
        longer = int(size * max(width, height) / min(width, height))
        return (size, longer) if width <= height else (longer, size)


def decode(data: bytes) -> Pixels | None:
    """The whole image; None if no codec can read it."""
    whole = jpeg_size(data)
    if whole is not None:
        return decode_reduced(data, whole, 1)
    image = with_pillow(data)
    return None if image is None else np.asarray(image)


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) of a JPEG that libjpeg-turbo decodes to RGB; None for anything else."""
    if data[:2] != b"\xff\xd8":
        return None
    try:
        height, width, colour, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    return (int(height), int(width)) if colour in ("YCbCr", "Gray", "RGB") and height * width <= MAX_PIXELS else None


def decode_reduced(data: bytes, whole: tuple[int, int], reduction: int) -> Pixels | None:
    try:
        return decode_jpeg(data, whole, reduction)
    except ValueError:
        image = with_pillow(data)  # decodes some sound files that libjpeg-turbo's interface does not take
        return None if image is None else np.asarray(image)


def with_pillow(data: bytes) -> Image.Image | None:
    """RGB over white; None if Pillow cannot read it (its codecs raise errors of many kinds on damaged bytes)."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_PIXELS:
                return None
            image.load()
            return on_white(image)
    except Exception:
        return None
