"""The recipe section `loss`, apart from the losses: a recipe is checked without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pairmill.config import Config
from pairmill.errors import RecipeError


class LossConfig(Config):
    """`loss`: what is learnt from a batch."""

    similarity: Literal["dot"] = Field("dot", description="dot: cosine of the two embeddings")
    target: str = Field(
        "clip",
        description="clip: the first text; one_to_k: all texts in one softmax; per_slot: a softmax a slot; siglip",
    )
    terms: tuple[str, ...] = Field((), description="auxiliary terms to add; there are none yet")
    mode: Literal["gather", "group", "ring", "local"] = Field(
        "gather",
        description="whose texts are the negatives: gather and ring: of all workers, with the same numbers; group: of "
        "group_size workers, others at every step; local: of the own worker",
    )
    group_size: int | None = Field(None, ge=1, description="workers of a group in mode group; null: all")
    tile: tuple[int, int] = Field(
        (1024, 2048),
        description="rows and columns of the logits that exist at a time; takes 12 bytes times their product",
    )

    @model_validator(mode="after")
    def _known_terms(self) -> LossConfig:
        if self.terms:
            raise RecipeError(
                "loss.terms names auxiliary terms", value=", ".join(self.terms), fix="leave it out: there are none yet"
            )
        return self
