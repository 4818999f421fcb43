"""Drop images that are likely not safe for work, by an image head.

reads: image (binary, encoded)
adds:  nsfw (float32, 0-1)
drops: nsfw
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator

from curation.heads import HEADS, loaded
from pairmill.config import Config
from pairmill.errors import IntegrityError, RecipeError
from pairmill.registry import ChosenBy, NamedConfig, source_digest

_HEAD = ChosenBy(HEADS, default="open_nsfw")


class SafetyConfig(Config):
    """Whether images are scored, by what, and which score drops them."""

    nsfw_max: float | None = Field(
        None,
        ge=0,
        le=1,
        description="largest `nsfw` score kept, 0-1 (LAION, Data-Juicer: 0.5); an image that cannot be scored is "
        "dropped; null: nothing is scored",
    )
    nsfw_head: Annotated[NamedConfig, _HEAD] = Field(
        default_factory=lambda: _HEAD.parse({}),
        description="image head that scores: one that reads pixels and has a column `nsfw` (float)",
    )

    @field_validator("nsfw_head")
    @classmethod
    def _scores_pixels(cls, value: NamedConfig) -> NamedConfig:
        head = HEADS.get(value.name)
        if head.input != "pixels" or "nsfw" not in head.columns.names:
            raise RecipeError(
                "filter.nsfw_head must be a head that reads pixels and has a column nsfw",
                value=f"{value.name} reads {head.input} and has {', '.join(head.columns.names)}",
                fix="name another head, or declare a column nsfw in yours",
            )
        return value

    def head_identity(self) -> Any:
        """What decides the scores: the head, its keys and its revision; None if nothing is scored."""
        if self.nsfw_max is None:
            return None
        name = self.nsfw_head.name
        own = [source_digest(name)] if ":" in name else []
        return [self.nsfw_head.identity(), HEADS.get(name).revision(self.nsfw_head), *own]


def safety_masks(rows: pa.Table, config: SafetyConfig) -> dict[str, pa.ChunkedArray]:
    """Reason -> mask, if the rule is on; an unscored image counts as unsafe."""
    if config.nsfw_max is None:
        return {}
    return {"nsfw": pc.fill_null(pc.greater(rows["nsfw"], np.float32(config.nsfw_max)), True)}


def score_nsfw(images: pa.ChunkedArray, head: NamedConfig) -> pa.Array:
    """Probability, 0-1 (float32), that each encoded image is not safe for work; null for one that cannot be decoded.

    Raises IntegrityError for a head that does not answer row by row.
    """
    scores = loaded(head)(images)["nsfw"].combine_chunks().cast(pa.float32())
    if len(scores) != len(images):
        raise IntegrityError(f"image head {head.name} must score every image: {len(scores)} of {len(images)}")
    return scores
