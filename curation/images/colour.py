"""Pixels of any colour space to sRGB, as a browser shows them."""

from __future__ import annotations

import io
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from curation.images.fields import space_of
from pairmill.pixels import Pixels

#: Pillow's modes for the colour spaces of profiles.
_MODES = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}

#: Most levels by which a profile may change a colour and still be sRGB: rounding, on the way and in its tables.
_SAME = 1


def to_srgb(pixels: Pixels, profiles: Iterable[bytes]) -> Pixels:
    """RGB or CMYK uint8 [H, W, C] -> sRGB uint8 [H, W, 3], by the first of the ICC profiles that can be used.

    Meant for the reduced picture, where it costs a millisecond or two.  A profile that is broken is passed over, and
    one whose curves are those of sRGB changes nothing; its name says nothing.  One for grey expects R = G = B.  CMYK
    without a usable profile is converted as ink over white.
    """
    for profile in profiles:
        if (found := _transform(profile)) is not None:
            transform, changes = found
            return _applied(pixels, transform, _MODES[space_of(profile)]) if changes else pixels
    if pixels.shape[2] == 4:
        return np.asarray(_image(pixels, "CMYK").convert("RGB"))
    return pixels


def _applied(pixels: Pixels, transform: Any, mode: str) -> Pixels:
    converted = ImageCms.applyTransform(_image(pixels, mode), transform)
    assert converted is not None  # None is for conversion in place
    return np.asarray(converted)


def _image(pixels: Pixels, mode: str) -> Image.Image:
    samples = np.ascontiguousarray(pixels[:, :, 0] if mode == "L" else pixels)
    return Image.frombuffer(mode, pixels.shape[1::-1], samples, "raw", mode, 0, 1)


@lru_cache(maxsize=16)  # a handful of profiles (Display P3, Adobe RGB, press standards) make up nearly all of the web's
def _transform(icc: bytes) -> tuple[Any, bool] | None:
    """The transform to sRGB, and whether it changes anything; None for a profile that cannot be used."""
    mode = _MODES.get(space_of(icc))
    if mode is None:
        return None
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError):
        return None
    if mode == "CMYK":
        return transform, True
    levels = np.arange(0, 256, 17 if mode == "RGB" else 1, dtype=np.uint8)
    samples = np.stack(np.meshgrid(*[levels] * 3), -1).reshape(1, -1, 3) if mode == "RGB" else levels[None, :, None]
    samples = np.ascontiguousarray(samples)
    return transform, int(np.abs(_applied(samples, transform, mode).astype(int) - samples).max()) > _SAME
