"""Texts that do not fit their picture, by a dual encoder of the recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field, model_validator

from curation.gates.gate import ACCEPTED, GateKeys, TextGate, Verdict, Written
from pairmill.languages import matches
from pairmill.layout import text_scores_column


class SimilarityKeys(GateKeys):
    """By which encoder, and what is too little."""

    encoder: str = Field(description="entry of `embed`, with texts: all, whose scores decide")
    least: float | None = Field(None, ge=-1, le=1, description="least cosine of picture and text; null: any")
    margin: float | None = Field(
        None,
        ge=0,
        description="how much lower than the alt text's the cosine may be, where both are in one language; null: as "
        "much as it wants",
    )

    @model_validator(mode="after")
    def _one_at_least(self) -> SimilarityKeys:
        if self.least is None and self.margin is None:
            raise ValueError("image_text_score: least or margin must be set, got neither; set margin: 0")
        return self


class SimilarityGate(TextGate):
    """Refuse a text whose cosine with the picture is too low, or lower than the alt text's; the cosine is the value.

    A text without a score passes: the row has no picture, or the encoder read nothing.
    """

    Config = SimilarityKeys

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._column = text_scores_column(config.encoder)
        self.reads = (self._column,)

    def verdict(self, text: Written) -> Verdict:
        """The verdict on one text."""
        scores: Sequence[float | None] | None = text.row[self._column]
        if scores is None or (score := scores[text.at]) is None:
            return ACCEPTED
        least, margin, alt = self.config.least, self.config.margin, scores[0]
        too_low = least is not None and score < least
        compared = margin is not None and alt is not None and text.language is not None
        if compared and matches(text.row["language"], text.language or ""):
            too_low = too_low or score < alt - margin
        return Verdict(too_low, score if too_low else None)
