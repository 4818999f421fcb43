"""The objective `levels`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

from pairmill.errors import RecipeError
from pairmill.registry import NamedConfig
from training.objectives.declaration import Objective, Setup

if TYPE_CHECKING:
    from torch import Tensor, nn

    from training.gather import Exchange
    from training.losses.loss_inputs import LossOutput
    from training.model import Features, Rows


class LevelsConfig(NamedConfig):
    """Which texts are of which level."""

    kinds: tuple[tuple[str, ...], ...] = Field(
        (("long", "rewritten"), ("short",), ("alt",), ("translated",)),
        min_length=1,
        description="kinds of text of each level; a text of any other kind is of the first",
    )
    weights: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (0.5, 0.2, 0.2, 0.1), description="weights of the levels at the start, which learn; they are scaled to sum to 1"
    )

    @model_validator(mode="after")
    def _of_one_length(self) -> LevelsConfig:
        from pairmill.layout import TEXT_KINDS

        if len(self.kinds) != len(self.weights):
            raise RecipeError(
                "loss.objective levels: weights must have a number for each level of kinds",
                value=f"{len(self.weights)} for {len(self.kinds)}",
                fix="give as many",
            )
        named = [kind for level in self.kinds for kind in level]
        for kind in named:
            if kind not in TEXT_KINDS or named.count(kind) > 1:
                raise RecipeError(
                    f"loss.objective levels: kinds must name each kind of text once at most ({', '.join(TEXT_KINDS)})",
                    value=kind,
                    fix="leave it out, or name it once",
                )
        return self


class Levels(Objective):
    """An image is near to the texts of a row level by level, each by its best patch (SHE-Net, Yu et al. 2024).

        S_ij = Σ_level α_level mean_{texts k of the level} max_p v_ip·t_jk / Σ_{levels of row j} α_level
        L    = ½ [CE(s S over rows of texts) + CE(s S over images)],   α = softmax of learnt logits

    SHE-Net's levels are a sentence, its verbs, nouns and adjectives, with weights from a syntax tree.  Here they are
    the kinds of a row's texts, and the weights are learnt, from (0.5, 0.2, 0.2, 0.1); a level that a row lacks takes no
    part.  Patches must be as wide as the embeddings.  Memory: one tile, and the texts of all rows in mode gather.
    """

    paper = "SHE-Net, Yu et al. 2024"
    Config = LevelsConfig
    config: LevelsConfig
    needs = ("tokens",)
    optional_tensors = ("text_tokens",)
    parameters = ("level_logits",)

    def heads(self, setup: Setup) -> nn.Module:
        """See `Objective`."""
        from training.losses.token_heads import LevelWeights

        return LevelWeights(self.config.weights)

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        """See `Objective`.  Raises RecipeError for patches of another width than the embeddings."""
        from training.losses.loss_inputs import LossOutput
        from training.losses.word_similarity import level_loss
        from training.objectives.text_words import check_width

        patches = features.asked["image_tokens"]
        check_width(self.config.name, features.text_BKD.shape[2], patches.shape[2])
        total = level_loss(
            patches,
            features.text_BKD,
            self._levels(rows),
            features.own.shared["levels"],
            features.scale,
            rows.group_B,
            exchange,
            tile=self.setup.tile,
        )
        return LossOutput(total, {self.config.name: total.detach()})

    def _levels(self, rows: Rows) -> Tensor:
        """Level of each text [B, K], -1 for none."""
        import torch

        from training.data.texts import kind_code

        level_BK = torch.zeros_like(rows.kind_BK, dtype=torch.int64)
        for level, kinds in enumerate(self.config.kinds):
            for kind in kinds:
                level_BK = torch.where(rows.kind_BK == kind_code(kind), level, level_BK)
        return torch.where(rows.text_mask_BK, level_BK, -1)
