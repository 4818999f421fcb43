"""The objective `token_max`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from pairmill.registry import NamedConfig
from training.objectives.declaration import Objective, Setup

if TYPE_CHECKING:
    from torch import Tensor, nn

    from training.gather import Exchange
    from training.losses.loss_inputs import LossOutput
    from training.model import Features, Rows


class TokenMaxConfig(NamedConfig):
    """Its scale, and how many tokens leave their worker."""

    own_scale: bool = Field(
        False,
        description="true: a learnt temperature of its own, from 0.07 (DeCLIP); false: the model's",
    )
    top_share: float | None = Field(
        None,
        gt=0,
        le=1,
        description="share of each side's tokens, the most telling ones, that are compared with other rows (FILIP: "
        "0.25); null: all",
    )


class TokenMax(Objective):
    """Image and text are as close as their best matching patches and tokens (FILIP, Yao et al. 2022).

        S^I_ij = (1/P) Σ_p max_l v_ip·w_jl             S^T_ij = (1/Σ_l m_jl) Σ_l m_jl max_p v_ip·w_jl
        L      = ½ [CE(s S^I over texts) + CE(s S^T over images)]

    Padding of texts takes no part.  Every text of a row is a positive, as in `one_to_k`.  The products of patches and
    tokens exist tile by tile, `loss.tile` of them at a time: memory is that of the tokens of all rows in mode gather,
    and of the own rows in mode ring.
    With top_share, a token counts as much as the sum of its cosines with the other side of its own row, and only the
    best are gathered; the own side keeps all of its tokens (DeCLIP, whose count of 16 tokens is a share here).  The
    share is of the tokens that a text has, rounded up.
    The released form is x-clip's, which takes all tokens and contrasts both similarities over images.
    """

    paper = "FILIP, Yao et al. 2022"
    forms = ("paper", "released")
    Config = TokenMaxConfig
    config: TokenMaxConfig
    needs = ("tokens",)
    parameters: tuple[str, ...] = ("log_scale",)

    def heads(self, setup: Setup) -> nn.Module | None:
        """See `Objective`."""
        if not self.config.own_scale:
            return None
        from training.losses.token_heads import OwnScale

        return OwnScale()

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        """See `Objective`."""
        from training.losses.loss_inputs import LossOutput
        from training.losses.token_similarity import cleaned, selected_token_loss, token_loss

        asked = features.asked
        tokens = cleaned(
            self.image_tokens(features), asked["text_tokens"], asked.get("text_token_mask"), rows.text_mask_BK
        )
        scale = features.own.shared.get("scale", features.scale)
        if self.form == "paper" and self.config.top_share is not None:
            total = selected_token_loss(
                *tokens, scale, rows.group_B, exchange, tile=self.setup.tile, top_share=self.config.top_share
            )
        else:
            released = self.form == "released"
            total = token_loss(*tokens, scale, rows.group_B, exchange, tile=self.setup.tile, over_images_only=released)
        return LossOutput(total, {self.config.name: total.detach()})

    def image_tokens(self, features: Features) -> Tensor:
        """What stands for the patches of an image, [B, P, Dt]."""
        return features.asked["image_tokens"]
