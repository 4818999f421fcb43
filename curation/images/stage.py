"""Inspect, as a stage: process the downloaded bytes."""

from __future__ import annotations

import pyarrow as pa

from curation.images.config import ImageConfig
from curation.schema import INSPECT_STATUSES, Status
from curation.stage import Column, Stage


class Inspect(Stage):
    """Decode in processes of their own, turn upright, strip metadata, resize, re-encode and measure every picture.

    The work is done while other URLs are still being fetched, so that pixels are written only once, after inspection:
    see `curation.images.inspect`.
    """

    name, segment, section, table, within, pool = "inspect", "collect", "image", "images", "download", None
    adds = (
        Column("image", pa.binary(), "the picture, re-encoded"),
        Column("width", pa.int32(), "pixels of `image`", carried=True),
        Column("height", pa.int32(), "pixels of `image`", carried=True),
        Column("original_width", pa.int32(), "pixels of the original, turned upright", carried=True),
        Column("original_height", pa.int32(), "pixels of the original, turned upright", carried=True),
        Column("image_settings", pa.string(), "digest of the image.* that made the picture"),
        Column("format", pa.string(), "format of the original", carried=True),
        Column("frames", pa.int32(), "frames of the original"),
        Column("sha256", pa.string(), "SHA-256 of the original bytes, hex", carried=True),
        Column("phash", pa.uint64(), "64-bit DCT perceptual hash", carried=True),
        Column("colours", pa.binary(), "half the luma, Cb and Cr of 8 x 8 parts, a byte each"),
        Column("sharpness", pa.float32(), "variance of the Laplacian of the grey picture", carried=True),
        Column("entropy", pa.float32(), "entropy of the grey values, bits", carried=True),
    )
    version = 3  # 2: colours; 3: of 8 x 8 parts
    libraries = ("numpy", "opencv-python-headless", "pillow", "simplejpeg")
    drops = tuple(status.value for status in Status if status in INSPECT_STATUSES)
    Config = ImageConfig
