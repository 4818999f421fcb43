"""More views of an image, for the need `views`: cropped and changed far more than what is trained on anyway.

    crop, mirror, jitter of brightness, contrast, saturation and hue, grey, blur

These and their defaults are MoCo v2's (Chen et al. 2020, arXiv 2003.04297), which are SimCLR's but for their strength;
the jitter of hue is off by default, and the four are always in this order, where torchvision draws one.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from pairmill.pixels import Pixels
from training.data.augment import TrainTransform
from training.data.config import AugmentConfig, ViewsConfig

#: Shares of red, green and blue in luminance (ITU-R BT.601, as in torchvision).
_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)


class StrongTransform:
    """Bytes and a generator to a view of the model's size."""

    def __init__(self, size: int | tuple[int, int], config: ViewsConfig) -> None:
        """size: pixels, or (height, width)."""
        self._crop = TrainTransform(size, AugmentConfig(scale=config.scale, ratio=config.ratio))
        self.height, self.width, self.config = self._crop.height, self._crop.width, config

    def __call__(self, data: bytes, rng: np.random.Generator) -> Pixels | None:
        """uint8 [height, width, 3]; None if the image cannot be decoded."""
        cropped = self._crop(data, rng)
        return None if cropped is None else changed(cropped, self.config, rng)


def changed(pixels: Pixels, config: ViewsConfig, rng: np.random.Generator) -> Pixels:
    """What is done to a crop.  Draws eight numbers, and one for the hue if it may change, whatever becomes of them."""
    mirror, jitter, grey, blur = rng.random(4)
    factors = rng.uniform(1 - config.jitter, 1 + config.jitter, 3)
    sigma = rng.uniform(0.1, 2.0)
    turn = rng.uniform(-config.hue, config.hue) if config.hue else 0.0
    if mirror < config.mirror_p:
        pixels = np.ascontiguousarray(pixels[:, ::-1])
    if jitter < config.jitter_p:
        pixels = _jittered(pixels, *factors.tolist())
        pixels = _turned(pixels, turn) if turn else pixels
    if grey < config.grey_p:
        pixels = np.repeat(_whole(_luminance(pixels.astype(np.float32)))[..., None], 3, axis=2)
    if blur < config.blur_p:
        pixels = np.asarray(cv2.GaussianBlur(pixels, (0, 0), sigma), np.uint8)
    return pixels


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
