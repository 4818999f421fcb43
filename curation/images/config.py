"""Configuration of the pictures that are stored."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import Field

from pairmill.config import EXECUTION, POLICY, Config, digest

ImageFormat: TypeAlias = Literal["jpg", "png", "webp"]
Chroma: TypeAlias = Literal["420", "444"]
ResizeMode: TypeAlias = Literal["no", "border", "keep_ratio", "keep_ratio_largest", "center_crop"]


class ImageConfig(Config):
    """How an image is decoded, resized and stored."""

    size: int = Field(256, ge=1, le=16_383, description="side that `resize` aims at, pixels; img2dataset's image_size")
    resize: ResizeMode = Field(
        "keep_ratio",
        description="img2dataset's resize_mode: no; keep_ratio (shorter side = size); center_crop (the same, cut to a "
        "square); keep_ratio_largest (longer side = size); border (the same, padded to a square with white)",
    )
    resize_only_if_bigger: bool = Field(
        False, description="whether pictures not larger than `size` keep their size, as by default in img2dataset"
    )
    format: ImageFormat = Field("jpg", description="format of the stored image")
    quality: int = Field(
        95, ge=1, le=100, description="encoder quality of jpg and webp (1-100), as in img2dataset; png has none"
    )
    chroma: Chroma = Field(
        "420",
        description="colour resolution of jpg: 420 a quarter (as in img2dataset), 444 full; full is 1.5 to 3 dB PSNR "
        "closer to the source at 256 pixels for a third more bytes; at quality 92 it has the bytes of 420 at 95",
    )
    max_pixels: int = Field(
        64_000_000,
        ge=1,
        json_schema_extra=POLICY,
        description="most pixels (width x height by the header) of an image that is decoded",
    )
    max_frames: int = Field(
        1000, ge=1, json_schema_extra=POLICY, description="most frames of an animation that is decoded"
    )
    min_factor: float = Field(
        1.5,
        ge=1,
        description="least ratio of each side to the wanted one when a JPEG is decoded at 1/2, 1/4 or 1/8; at 1.5, "
        "photos of 1 MP are about 42 dB PSNR from full decoding; 3 takes 1.7 times as long",
    )
    decode_timeout_s: float = Field(
        20.0,
        gt=0,
        description="seconds after which the process that decodes one image is killed",
        json_schema_extra=EXECUTION,
    )

    @property
    def settings(self) -> str:
        """Hex digest of how pictures are stored; it is kept with each picture."""
        return digest(self.identity())
