"""What a picture looks like once stored, and how colours look on a screen, by the formulas of their standards."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from curation.images.config import ImageConfig
from curation.images.inspect import Inspected, inspect_image
from curation.schema import Status

# What writes the benchmark's pictures; last on the path, as its neighbours have common names.
sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))

EXACT = ImageConfig(resize="no", format="png")


def inspected(data: bytes) -> Inspected:
    return inspect_image(data, EXACT, frozenset())


def seen(data: bytes) -> NDArray[np.int64]:
    """[H, W, 3], as stored without loss."""
    found = inspected(data)
    if found.status is not Status.SUCCESS:
        raise ValueError(f"{found.status.value}: {found.error}")
    return np.asarray(Image.open(io.BytesIO(found.image)).convert("RGB")).astype(np.int64)


def to_light(levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """sRGB 0-255 -> light 0-1 (IEC 61966-2-1)."""
    value = levels / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def from_light(light: NDArray[np.float64]) -> NDArray[np.float64]:
    """Light 0-1 -> sRGB 0-255; what is outside is cut."""
    light = light.clip(0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
