"""Encoded bytes to pixels of the model's size: uint8 RGB [H, W, 3].

Training draws the crop of torchvision's RandomResizedCrop from the header alone, decodes the JPEG at the smallest of
libjpeg-turbo's reduced sizes that still fills the crop, and scales only the crop.  What a model that does
not learn sees is `pairmill.towers.eval_transform`'s.  Normalisation is the model's.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np

from pairmill.pixels import Pixels, largest_reduction
from pairmill.towers.eval_transform import decode_reduced, jpeg_size, with_pillow
from training.data.config import AugmentConfig

#: Tries before torchvision falls back to the largest centred crop of an allowed ratio.
_TRIES = 10

#: Shrinking by more than this aliases under plain bicubic interpolation: then area averaging.
_CUBIC_UP_TO = 1.5


class Crop(NamedTuple):
    """A crop, and where it lies in the image that was encoded."""

    pixels: Pixels  #: of the model's size
    box: tuple[int, int, int, int]  #: top, left, height, width in pixels of the whole image


class TrainTransform:
    """Bytes and a generator to a random crop, scaled to the model's size."""

    def __init__(self, size: int | tuple[int, int], config: AugmentConfig | None = None) -> None:
        """size: pixels, or (height, width)."""
        self.height, self.width = (size, size) if isinstance(size, int) else size
        self.config = config or AugmentConfig()

    def __call__(self, data: bytes, rng: np.random.Generator) -> Pixels | None:
        """uint8 [height, width, 3]; None if the image cannot be decoded."""
        crop = self.crop(data, rng)
        return None if crop is None else crop.pixels

    def crop(self, data: bytes, rng: np.random.Generator) -> Crop | None:
        """The same, with its place."""
        whole = jpeg_size(data)
        if whole is None:
            image = with_pillow(data)
            if image is None:
                return None
            pixels = np.asarray(image)
            box = crop_box(pixels.shape[0], pixels.shape[1], self.config, rng)
            return Crop(self._scaled(pixels, box), box)
        top, left, height, width = box = crop_box(*whole, self.config, rng)
        reduction = largest_reduction(lambda r: height >= r * self.height and width >= r * self.width)
        decoded = decode_reduced(data, whole, reduction)
        if decoded is None:
            return None
        rows, columns = (length / of for length, of in zip(decoded.shape[:2], whole, strict=True))
        return Crop(self._scaled(decoded, (top * rows, left * columns, height * rows, width * columns)), box)

    def _scaled(self, pixels: Pixels, box: tuple[float, float, float, float]) -> Pixels:
        """The box (top, left, height, width) of an image, in its pixels or fractions of them, at the model's size."""
        top, left, height, width = box
        size = (self.width, self.height)
        down, across = height / self.height, width / self.width
        cubic = max(down, across) <= _CUBIC_UP_TO
        if cubic and not all(float(edge).is_integer() for edge in box):
            # Maps the centre of each pixel to its place in the box, so that fractions of a pixel are kept.
            place = np.array([[across, 0, left + (across - 1) / 2], [0, down, top + (down - 1) / 2]])
            how = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
            return np.asarray(cv2.warpAffine(pixels, place, size, flags=how, borderMode=cv2.BORDER_REPLICATE), np.uint8)
        rows = slice(round(top), max(round(top + height), round(top) + 1))
        columns = slice(round(left), max(round(left + width), round(left) + 1))
        how = cv2.INTER_CUBIC if cubic else cv2.INTER_AREA
        return np.asarray(cv2.resize(pixels[rows, columns], size, interpolation=how), np.uint8)


def crop_box(height: int, width: int, config: AugmentConfig, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """(top, left, height, width) in pixels, distributed as torchvision's `RandomResizedCrop.get_params`."""
    low, high = (math.log(ratio) for ratio in config.ratio)
    for _ in range(_TRIES):
        area = height * width * rng.uniform(*config.scale)
        ratio = math.exp(rng.uniform(low, high))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    w, h = width, height
    if width / height < config.ratio[0]:
        h = round(width / config.ratio[0])
    elif width / height > config.ratio[1]:
        w = round(height * config.ratio[1])
    return (height - h) // 2, (width - w) // 2, h, w
