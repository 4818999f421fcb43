"""More views of an image, for the needs `views` and `view_tokens`: cropped and changed far more than usually.

    crop, mirror, jitter of brightness, contrast, saturation and hue, grey, blur

These and their defaults are MoCo v2's (Chen et al. 2020, arXiv 2003.04297), which are SimCLR's but for their strength;
the jitter of hue is off by default, and the four are always in this order, where torchvision draws one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from pairmill.pixels import Pixels
from training.data.augment import TrainTransform
from training.data.config import AugmentConfig, ViewsConfig

#: What the need `view_tokens` has of each row: crops, uint8 [N, 2, H, W, 3], and where they lie in their image, float32
#: [N, 2, 4], as `PlacedView.box`.
IMAGE_CROPS, CROP_BOXES = "image_crops", "crop_boxes"

#: Crops of an image there.
CROPS = 2

#: Shares of red, green and blue in luminance (ITU-R BT.601, as in torchvision).
_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)


class PlacedView(NamedTuple):
    """A view, and where it lies in its image."""

    pixels: Pixels  #: uint8 [height, width, 3]
    box: tuple[int, int, int, int]  #: left, top, right, bottom in pixels of the whole image; right < left: mirrored


class StrongTransform:
    """Bytes and a generator to a view of the model's size."""

    def __init__(self, size: int | tuple[int, int], config: ViewsConfig) -> None:
        """size: pixels, or (height, width)."""
        self._crop = TrainTransform(size, AugmentConfig(scale=config.scale, ratio=config.ratio))
        self.height, self.width, self.config = self._crop.height, self._crop.width, config

    def __call__(self, data: bytes, rng: np.random.Generator) -> Pixels | None:
        """uint8 [height, width, 3]; None if the image cannot be decoded."""
        view = self.placed(data, rng)
        return None if view is None else view.pixels

    def placed(self, data: bytes, rng: np.random.Generator) -> PlacedView | None:
        """The same, with its place."""
        crop = self._crop.crop(data, rng)
        if crop is None:
            return None
        pixels, mirrored = changed(crop.pixels, self.config, rng)
        top, left, height, width = crop.box
        right, left = (left, left + width) if mirrored else (left + width, left)
        return PlacedView(pixels, (left, top, right, top + height))


class PlacedCrops:
    """The crops of some rows, and their boxes; zeros in rows that are not filled.  `asked` is empty without crops."""

    def __init__(self, rows: int, transform: StrongTransform | None) -> None:
        """transform: None: none are needed."""
        self.asked: dict[str, NDArray[Any]] = {}
        self._transform = transform
        if transform is not None:
            shape = (rows, CROPS, transform.height, transform.width, 3)
            self.asked = {IMAGE_CROPS: np.zeros(shape, np.uint8), CROP_BOXES: np.zeros((rows, CROPS, 4), np.float32)}

    def fill(self, row: int, data: bytes, rng: np.random.Generator) -> None:
        """Crop a row's image, which can be decoded.  rng: the row's own."""
        if self._transform is None:
            return
        for at in range(CROPS):
            if (view := self._transform.placed(data, rng)) is not None:
                self.asked[IMAGE_CROPS][row, at], self.asked[CROP_BOXES][row, at] = view

    def clear(self, rows: NDArray[np.bool_]) -> None:
        """Forget those of some rows."""
        for values in self.asked.values():
            values[rows] = 0


def changed(pixels: Pixels, config: ViewsConfig, rng: np.random.Generator) -> tuple[Pixels, bool]:
    """What is done to a crop, and whether it was mirrored.

    Draws eight numbers, and one for the hue if it may change, whatever becomes of them.
    """
    mirror, jitter, grey, blur = rng.random(4)
    factors = rng.uniform(1 - config.jitter, 1 + config.jitter, 3)
    sigma = rng.uniform(0.1, 2.0)
    turn = rng.uniform(-config.hue, config.hue) if config.hue else 0.0
    mirrored = bool(mirror < config.mirror_p)
    if mirrored:
        pixels = np.ascontiguousarray(pixels[:, ::-1])
    if jitter < config.jitter_p:
        pixels = _jittered(pixels, *factors.tolist())
        pixels = _turned(pixels, turn) if turn else pixels
    if grey < config.grey_p:
        pixels = np.repeat(_whole(_luminance(pixels.astype(np.float32)))[..., None], 3, axis=2)
    if blur < config.blur_p:
        pixels = np.asarray(cv2.GaussianBlur(pixels, (0, 0), sigma), np.uint8)
    return pixels, mirrored


def _jittered(pixels: Pixels, brightness: float, contrast: float, saturation: float) -> Pixels:
    image = np.clip(pixels.astype(np.float32) * brightness, 0, 255)
    image = np.clip((image - (mean := _luminance(image).mean())) * contrast + mean, 0, 255)
    own = _luminance(image)[..., None]
    return _whole((image - own) * saturation + own)


def _turned(pixels: Pixels, turn: float) -> Pixels:
    """With hues turned by a share of their circle; what is grey stays so."""
    # OpenCV's hues of float images are degrees.
    image = cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)
    image[..., 0] = (image[..., 0] + 360 * turn) % 360
    return _whole(255 * cv2.cvtColor(image, cv2.COLOR_HSV2RGB))


def _luminance(image: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(image @ _LUMINANCE, np.float32)


def _whole(image: NDArray[np.float32]) -> Pixels:
    return np.asarray(np.clip(np.rint(image), 0, 255), np.uint8)
