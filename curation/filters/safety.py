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

from curation.heads import NSFW_HEADS, loaded
from pairmill.config import Config
from pairmill.errors import IntegrityError, RecipeError
from pairmill.own_code import Guard
from pairmill.registry import ChosenBy, NamedConfig, is_import_path, source_digest

_HEAD = ChosenBy(NSFW_HEADS, default="open_nsfw")


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
        head = NSFW_HEADS.get(value.name)
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
        own = [source_digest(name)] if is_import_path(name) else []
        return [self.nsfw_head.identity(), NSFW_HEADS.get(name).revision(self.nsfw_head), *own]


def safety_masks(rows: pa.Table, config: SafetyConfig) -> dict[str, pa.ChunkedArray]:
    """Reason -> mask, if the rule is on; an unscored image counts as unsafe."""
    if config.nsfw_max is None:
        return {}
    return {"nsfw": pc.fill_null(pc.greater(rows["nsfw"], np.float32(config.nsfw_max)), True)}


def score_nsfw(rows: pa.Table, head: NamedConfig, timeout_s: float) -> pa.Array:
    """Probability, 0-1 (float32), that each encoded image is not safe for work; null for one that cannot be decoded.

    rows: `uid`, `url` and `image`.  timeout_s: seconds that a head of the user's own may take for them.
    Raises IntegrityError for a head that does not answer row by row, JobError for an own one that fails.
    """

    def scores(some: pa.Table) -> pa.Array:
        found = loaded(head)(some["image"])["nsfw"]
        if len(found) != len(some):
            raise IntegrityError(f"image head {head.name} must score every image: {len(found)} of {len(some)}")
        return found.combine_chunks().cast(pa.float32())

    if not is_import_path(head.name):
        return scores(rows)
    guard = Guard(f"filter.nsfw_head: {head.name}", timeout_s, limit="filter.callables_timeout_s")
    return pa.concat_arrays([answer.value for answer in guard.answers(scores, rows)])
