"""Encoded bytes to pixels of the model's size: uint8 RGB [H, W, 3].

Training draws the crop of torchvision's RandomResizedCrop from the header alone, decodes the JPEG at the smallest of
libjpeg-turbo's reduced sizes that still fills the crop, and scales only the crop.  Evaluation decodes in full and
resizes with Pillow, as `open_clip.image_transform(is_train=False)` does.  Normalisation is the model's.
"""

from __future__ import annotations

import io
import math

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from pairmill.pixels import Pixels, decode_jpeg, largest_reduction, on_white
from training.data.config import AugmentConfig

#: Pillow's own limit (twice its warning), for every codec: what unpacks to more is an attack or a mistake.
MAX_PIXELS = 178_956_970

#: Tries before torchvision falls back to the largest centred crop of an allowed ratio.
_TRIES = 10

#: Shrinking by more than this aliases under plain bicubic interpolation: then area averaging.
_CUBIC_UP_TO = 1.5


class TrainTransform:
    """Bytes and a generator to a random crop, scaled to the model's size."""

    def __init__(self, size: int | tuple[int, int], config: AugmentConfig | None = None) -> None:
        """size: pixels, or (height, width)."""
        self.height, self.width = (size, size) if isinstance(size, int) else size
        self.config = config or AugmentConfig()

    def __call__(self, data: bytes, rng: np.random.Generator) -> Pixels | None:
        """uint8 [height, width, 3]; None if the image cannot be decoded."""
        whole = _jpeg_size(data)
        if whole is None:
            image = _with_pillow(data)
            if image is None:
                return None
            pixels = np.asarray(image)
            return self._scaled(pixels, crop_box(pixels.shape[0], pixels.shape[1], self.config, rng))
        top, left, height, width = crop_box(*whole, self.config, rng)
        reduction = largest_reduction(lambda r: height >= r * self.height and width >= r * self.width)
        decoded = _decode_jpeg(data, whole, reduction)
        if decoded is None:
            return None
        rows, columns = (length / of for length, of in zip(decoded.shape[:2], whole, strict=True))
        return self._scaled(decoded, (top * rows, left * columns, height * rows, width * columns))

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

    def __call__(self, data: bytes, rng: np.random.Generator | None = None) -> Pixels | None:
        """uint8 [size, size, 3]; None if the image cannot be decoded.  `rng` is not used."""
        pixels = decode(data)
        if pixels is None:
            return None
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
    whole = _jpeg_size(data)
    if whole is not None:
        return _decode_jpeg(data, whole, 1)
    image = _with_pillow(data)
    return None if image is None else np.asarray(image)


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


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) of a JPEG that libjpeg-turbo decodes to RGB; None for anything else."""
    if data[:2] != b"\xff\xd8":
        return None
    try:
        height, width, colour, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    return (int(height), int(width)) if colour in ("YCbCr", "Gray", "RGB") and height * width <= MAX_PIXELS else None


def _decode_jpeg(data: bytes, whole: tuple[int, int], reduction: int) -> Pixels | None:
    try:
        return decode_jpeg(data, whole, reduction)
    except ValueError:
        image = _with_pillow(data)  # decodes some sound files that libjpeg-turbo's interface does not take
        return None if image is None else np.asarray(image)


def _with_pillow(data: bytes) -> Image.Image | None:
    """RGB over white; None if Pillow cannot read it (its codecs raise errors of many kinds on damaged bytes)."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_PIXELS:
                return None
            image.load()
            return on_white(image)
    except Exception:
        return None
