"""Bytes of a JPEG, PNG, WebP or GIF to 8-bit pixels on white, and pixels back to bytes.

JPEG goes through libjpeg-turbo at a reduced size; everything else, and the few JPEGs that its interface does not
support, goes through Pillow.
"""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import simplejpeg
from PIL import Image, ImageCms, UnidentifiedImageError

from curation.images.config import Chroma, ImageFormat
from curation.images.header import Header
from pairmill.errors import IntegrityError
from pairmill.pixels import Pixels, decode_jpeg, largest_reduction, on_white

#: The longest side each format can hold (libjpeg, libpng's default limit, libwebp), in pixels.
MAX_SIDE = {"jpg": 65_500, "png": 1_000_000, "webp": 16_383}

# `inspect_image` checks the size against image.max_pixels before anything is decoded; Pillow's limit differs.
Image.MAX_IMAGE_PIXELS = None

#: simplejpeg's errors for valid JPEGs that it does not support: sampling factors outside its enumeration, and scan
#: headers with values that only progressive files need (old encoders write them, decoders ignore them).
_NOT_FOR_TURBO = ("Could not determine subsampling", "Invalid SOS parameters")


def decode(data: bytes, kind: str, header: Header, *, at_least: tuple[int, int] | None) -> Pixels:
    """The first frame, not turned upright: RGB uint8 [H, W, 3] or, from a CMYK JPEG, CMYK uint8 [H, W, 4].

    at_least: (width, height) that suffice; a JPEG is decoded at the smallest reduced size that reaches both.
    Transparent pixels become white; 16-bit samples keep their upper eight bits.
    Raises whatever a codec raises on bytes it cannot read, ValueError if the picture is not of the header's size.
    """
    if kind != "jpeg":
        return _with_pillow(data, kind, header)
    try:
        return _with_turbo(data, header, at_least)
    except ValueError as error:
        if not any(words in str(error) for words in _NOT_FOR_TURBO):
            raise
        return _with_pillow(data, kind, header)


def _with_turbo(data: bytes, header: Header, at_least: tuple[int, int] | None) -> Pixels:
    height, width, colour, _ = simplejpeg.decode_jpeg_header(data)
    _check_size(header, width, height)

    def fits(reduction: int) -> bool:
        return at_least is not None and -(-width // reduction) >= at_least[0] and -(-height // reduction) >= at_least[1]

    reduction = largest_reduction(fits)
    if colour in ("CMYK", "YCCK"):
        # Stored inverted by every encoder since Photoshop; Pillow and browsers assume so too.
        return 255 - decode_jpeg(data, (height, width), reduction, "CMYK")
    return decode_jpeg(data, (height, width), reduction)


def _with_pillow(data: bytes, kind: str, header: Header) -> Pixels:
    image = _loaded(data, kind, header)
    return np.asarray(image if image.mode == "CMYK" else on_white(image))


def _loaded(data: bytes, kind: str, header: Header) -> Image.Image:
    try:
        opened = Image.open(io.BytesIO(data), formats=(kind.upper(),))
    except UnidentifiedImageError:
        # Its own text holds a memory address, and a row's error must be the same in every run.
        raise ValueError(f"not a {kind} by its header") from None
    with opened as image:
        _check_size(header, *image.size)
        image.load()
        # The opened image keeps its decoder, which for WebP is three more pictures; a copy frees it.
        return image.copy()


def _check_size(header: Header, width: int, height: int) -> None:
    if (width, height) != (header.width, header.height):
        raise ValueError(f"the header gives {header.width}x{header.height}, the picture is {width}x{height}")


def to_srgb(pixels: Pixels, icc: bytes) -> Pixels:
    """RGB or CMYK uint8 [H, W, C] -> sRGB uint8 [H, W, 3], through the embedded profile where that differs.

    Meant for the reduced picture, where it costs a millisecond or two.  A profile that is broken, of another colour
    space, or sRGB itself is ignored; CMYK without a usable profile is converted as ink over white.
    """
    mode = "CMYK" if pixels.shape[2] == 4 else "RGB"
    transform = _transform(icc, mode) if icc else None
    if mode == "RGB" and transform is None:
        return pixels
    image = Image.frombuffer(mode, pixels.shape[1::-1], pixels, "raw", mode, 0, 1)
    if transform is None:
        return np.asarray(image.convert("RGB"))
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None  # None is for conversion in place
    return np.asarray(converted)


@lru_cache(maxsize=16)  # a handful of profiles (Display P3, Adobe RGB, press standards) make up nearly all of the web's
def _transform(icc: bytes, mode: str) -> Any:
    if icc[16:20] != mode.ljust(4).encode() or b"sRGB" in icc or "sRGB".encode("utf-16-be") in icc:
        return None
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        return ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError):
        return None


def encode(pixels: Pixels, *, format: ImageFormat, quality: int, chroma: Chroma) -> bytes:
    """RGB uint8 [H, W, 3] -> a file without any metadata; `quality` and `chroma` do not affect png.

    Raises IntegrityError if OpenCV cannot encode the pixels.
    """
    if format == "jpg":
        jpeg: bytes = simplejpeg.encode_jpeg(pixels, quality, "RGB", chroma)
        return jpeg
    parameters = [cv2.IMWRITE_WEBP_QUALITY, quality] if format == "webp" else []
    done, encoded = cv2.imencode(f".{format}", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), parameters)
    if not done:
        raise IntegrityError(f"a decoded picture must be encodable: OpenCV failed on {pixels.shape} as {format}")
    return encoded.tobytes()
