"""The objective `token_max_reduced`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from pairmill.errors import RecipeError
from training.objectives.declaration import Setup
from training.objectives.token_max import TokenMax, TokenMaxConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

    from training.model import Features


class TokenMaxReducedConfig(TokenMaxConfig):
    """How many tokens stand for an image."""

    tokens: int = Field(12, ge=1, description="tokens that stand for the patches of an image (Wukong: 12)")
    groups: int = Field(
        8, ge=1, description="parts of a token's width that are mixed each by itself; must divide it (Wukong: 8)"
    )
    token_width: int | None = Field(None, ge=1, description="width of a token; null: that of the embeddings")


class TokenMaxReduced(TokenMax):
    """As `token_max`, of few learnt tokens in the place of an image's patches (Wukong, Gu et al. 2022).

        A = softmax over patches of W₂ W₁ LayerNorm(v_i)   [n, P]
        u_i = normalised A (W₃ v_i),   L = that of `token_max` with u_i for the patches v_i

    W₁ and W₃ mix within groups of the width.  The n tokens (12) are compared at n/P of the cost, and so are gathered.
    With own_scale it has a temperature of its own.  Wukong also keeps the image tower as it was trained before: see
    `model.lock_image.locked`.  The released form is that of `token_max`.
    """

    paper = "Wukong, Gu et al. 2022"
    Config = TokenMaxReducedConfig
    config: TokenMaxReducedConfig
    parameters = (
        "learner.norm.weight",
        "learner.norm.bias",
        "learner.mix.weight",
        "learner.mix.bias",
        "learner.maps.weight",
        "learner.maps.bias",
        "learner.features.weight",
        "learner.features.bias",
        "scale.log_scale",
    )

    def heads(self, setup: Setup) -> nn.Module:
        """See `Objective`.  Raises RecipeError for groups that do not divide the width of a token."""
        from training.losses.token_heads import OwnScale, Together, TokenLearner

        width = self.config.token_width or setup.token_width or setup.width
        if width % self.config.groups:
            raise RecipeError(
                f"loss.objective {self.config.name}: groups must divide the width of a token",
                value=f"{self.config.groups} of {width}",
                fix="choose a divisor",
            )
        scale = OwnScale() if self.config.own_scale else None
        return Together(TokenLearner(width, self.config.tokens, self.config.groups), scale)

    def image_tokens(self, features: Features) -> Tensor:
        """See `TokenMax`."""
        return features.own.rows["tokens"]
