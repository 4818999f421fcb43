"""Drop images that are likely not safe for work, by the head `open_nsfw`.

reads: image (binary, encoded)
adds:  nsfw (float32, 0-1)
drops: nsfw
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from curation.heads import loaded
from pairmill.config import Config
from pairmill.registry import NamedConfig

_HEAD = NamedConfig(name="open_nsfw")


class SafetyConfig(Config):
    """Whether images are scored, and which score drops them."""

    nsfw_max: float | None = Field(
        None,
        ge=0,
        le=1,
        description="largest `nsfw` score kept, 0-1 (LAION, Data-Juicer: 0.5); an image that cannot be scored is "
        "dropped; null: nothing is scored",
    )


def safety_masks(rows: pa.Table, config: SafetyConfig) -> dict[str, pa.ChunkedArray]:
    """Reason -> mask, if the rule is on; an unscored image counts as unsafe."""
    if config.nsfw_max is None:
        return {}
    return {"nsfw": pc.fill_null(pc.greater(rows["nsfw"], np.float32(config.nsfw_max)), True)}


def score_nsfw(images: pa.ChunkedArray) -> pa.Array:
    """Probability, 0-1 (float32), that each encoded image is not safe for work; null for one that cannot be decoded."""
    return loaded(_HEAD)(images)["nsfw"].combine_chunks()
