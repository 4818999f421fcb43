"""Turn downloaded bytes into a measured, resized, re-encoded image, or say why not.

Cheap checks come first, so that hostile bytes are refused before they cost anything: hash, block list, magic bytes,
size and frames by the header, and only then the decoder.
"""

from __future__ import annotations

import hashlib
import math
from typing import NamedTuple

from curation.images.colour import to_srgb
from curation.images.config import ImageConfig
from curation.images.decode import MAX_SIDE, decode, encode
from curation.images.header import read_header, sniff, why_unread
from curation.images.measure import colour_layout, entropy, grey_copy, perceptual_hash, sharpness
from curation.images.resize import frame, scale_to, target_size, upright
from curation.schema import Status


class Inspected(NamedTuple):
    """What became of one body.  Fields after the point of failure are empty or zero.

    width, height: pixels of `image`.  original_width, original_height: pixels of the source as it should be viewed
    (EXIF orientation applied).  format: that of the source, by `sniff`.  sha256: hex, of the source's bytes.
    phash, colours, sharpness, entropy: see `curation.images.measure`, taken before padding or cropping.
    needs: the least limit that would allow it, where image.max_pixels or max_frames did not; else 0.
    """

    status: Status
    error: str = ""
    image: bytes = b""
    width: int = 0
    height: int = 0
    original_width: int = 0
    original_height: int = 0
    format: str = ""
    frames: int = 0
    sha256: str = ""
    phash: int = 0
    colours: bytes = b""
    sharpness: float = 0.0
    entropy: float = 0.0
    needs: int = 0


def inspect_image(data: bytes, config: ImageConfig, blocked: frozenset[str]) -> Inspected:
    """Inspect the bytes of one response; a body that is not a valid image is a status, never an exception.

    blocked: hex SHA-256 digests of bodies whose pixels must not be kept.
    """
    digest = hashlib.sha256(data).hexdigest()
    if digest in blocked:
        return Inspected(Status.HASH_BLOCKED, sha256=digest)
    kind = sniff(data)
    if kind is None:
        status, why = why_unread(data)
        return Inspected(status, why, sha256=digest)
    known = Inspected(Status.DECODE_ERROR, format=kind, sha256=digest)
    try:
        header = read_header(data, kind, max_frames=config.max_frames)
    except ValueError as error:
        return known._replace(error=str(error))

    size = (header.width, header.height)
    shown = size if header.orientation < 5 else size[::-1]
    known = known._replace(original_width=shown[0], original_height=shown[1], frames=header.frames)
    target = target_size(*size, mode=config.resize, size=config.size, only_if_bigger=config.resize_only_if_bigger)
    if (refusal := _refusal(size, target or size, header.frames, config)) is not None:
        return known._replace(status=refusal[0], error=refusal[1], needs=refusal[2])

    enough = (math.ceil(config.min_factor * target[0]), math.ceil(config.min_factor * target[1])) if target else None
    try:
        decoded = decode(data, kind, header, at_least=enough)
    except Exception as error:  # a codec may raise anything on malicious bytes
        return known._replace(error=f"{type(error).__name__}: {error}")
    pixels = scale_to(decoded.pixels, *target) if target else decoded.pixels
    pixels = upright(to_srgb(pixels, decoded.profiles), header.orientation)
    grey, colours = grey_copy(pixels), colour_layout(pixels)
    if target:
        pixels = frame(pixels, mode=config.resize, size=config.size)
    return known._replace(
        status=Status.SUCCESS,
        image=encode(pixels, format=config.format, quality=config.quality, chroma=config.chroma),
        width=pixels.shape[1],
        height=pixels.shape[0],
        phash=perceptual_hash(grey),
        colours=colours,
        sharpness=sharpness(grey),
        entropy=entropy(grey),
    )


def _refusal(
    size: tuple[int, int], stored: tuple[int, int], frames: int, config: ImageConfig
) -> tuple[Status, str, int] | None:
    """Why a picture with this header must not be decoded, and the limit it needs (0: none helps); None if it may be."""
    if math.prod(size) > config.max_pixels:
        return Status.TOO_MANY_PIXELS, f"{size[0]}x{size[1]}, the most is {config.max_pixels}", math.prod(size)
    # A very narrow picture grows without bound when its shorter side is scaled to `size`.
    too_long = max(stored) > MAX_SIDE[config.format]
    if too_long or math.prod(stored) > config.max_pixels:
        message = f"{size[0]}x{size[1]} would be stored as {stored[0]}x{stored[1]}"
        return Status.TOO_MANY_PIXELS, message, 0 if too_long else math.prod(stored)
    if frames > config.max_frames:
        return Status.TOO_MANY_FRAMES, f"more than {config.max_frames}", frames
    return None
