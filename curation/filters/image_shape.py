"""Filter pairs whose image is too small, too elongated, too light in bytes, blurry or plain.

reads: original_width, original_height (int32, pixels), original_bytes (int64), sharpness, entropy (float32)
adds:  —
drops: image_too_small, image_too_elongated, file_too_small, image_too_blurry, image_too_plain
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pairmill.config import Config


class GeometryConfig(Config):
    """Rules on the image's size and measurements; each is off when null."""

    min_side: int | None = Field(
        200, ge=1, description="least shorter side of the original, pixels (DataComp basic: 200); null: off"
    )
    max_aspect: float | None = Field(
        3.0,
        ge=1.0,
        description="greatest ratio of longer to shorter original side (DataComp basic: 3.0); null: off",
    )
    min_bytes: int | None = Field(
        None, ge=1, description="least size of the fetched file, bytes (LAION: 5000); null: off"
    )
    min_sharpness: float | None = Field(
        None, ge=0, description="least `sharpness` of the inspect stage; it depends on the stored size; null: off"
    )
    min_entropy: float | None = Field(
        None, ge=0, le=8, description="least `entropy` of the inspect stage, bits per pixel; null: off"
    )


#: The columns of each threshold, so that only those of active rules are read.
COLUMNS = {
    "min_side": ("original_width", "original_height"),
    "max_aspect": ("original_width", "original_height"),
    "min_bytes": ("original_bytes",),
    "min_sharpness": ("sharpness",),
    "min_entropy": ("entropy",),
}


def geometry_masks(rows: pa.Table, config: GeometryConfig) -> dict[str, pa.ChunkedArray]:
    """Reason -> mask of the rows it applies to, for the rules that are on; null where a measurement is null."""
    masks = {}
    if config.min_side is not None or config.max_aspect is not None:
        sides = rows["original_width"], rows["original_height"]
        shorter = pc.min_element_wise(*sides, skip_nulls=False)
        longer = pc.max_element_wise(*sides, skip_nulls=False)
        if config.min_side is not None:
            masks["image_too_small"] = pc.less(shorter, config.min_side)
        if config.max_aspect is not None:
            aspect = pc.divide(pc.cast(longer, pa.float64()), pc.cast(shorter, pa.float64()))
            masks["image_too_elongated"] = pc.greater(aspect, config.max_aspect)
    for reason, column, least in (
        ("file_too_small", "original_bytes", config.min_bytes),
        ("image_too_blurry", "sharpness", config.min_sharpness),
        ("image_too_plain", "entropy", config.min_entropy),
    ):
        if least is not None:
            masks[reason] = pc.less(rows[column], least)
    return masks
