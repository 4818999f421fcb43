"""Deduplicate, as a stage: a global step between the streaming segments."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from curation.duplicates.deduplicate import PIXELS, DeduplicateConfig
from curation.stage import Column, Stage
from pairmill.errors import RecipeError, nearest
from pairmill.layout import SELECTIONS


class Deduplicate(Stage):
    """Equal bytes, equal pairs, near-duplicate images; of each family the best by (score, uid) stays."""

    name, segment, table, pool = "deduplicate", "global", SELECTIONS, None
    adds = (
        Column("keep", pa.bool_(), "whether the row is part of the selection"),
        Column("reason", pa.string(), "why it is not"),
    )
    drops = ("duplicate_pair", "duplicate_image", "near_duplicate_image")
    Config = DeduplicateConfig

    def __init__(self, config: DeduplicateConfig) -> None:
        super().__init__(config)
        score = ("original_width", "original_height") if config.score == PIXELS else (config.score,)
        self.reads = ("sha256", "phash", "caption", *score)

    def check(self, columns: Mapping[str, pa.DataType]) -> None:
        """Raise RecipeError for a score that is no numeric column."""
        known = [name for name, kind in columns.items() if pa.types.is_integer(kind) or pa.types.is_floating(kind)]
        if self.config.score not in (PIXELS, *known):
            raise RecipeError(
                "deduplicate.score must name a numeric column",
                value=self.config.score,
                fix=f"perhaps you mean: {nearest(self.config.score, [PIXELS, *known])}",
            )
