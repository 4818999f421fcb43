"""The objective `words`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pairmill.errors import RecipeError
from pairmill.registry import NamedConfig
from training.objectives.declaration import Objective

if TYPE_CHECKING:
    from training.gather import Exchange
    from training.losses.loss_inputs import LossOutput
    from training.model import Features, Rows


class WordsConfig(NamedConfig):
    """It has no keys of its own."""


class Words(Objective):
    """An image is near to a text if it is near to any of its significant words (SNP-S3's LVWM, Dong et al. 2024).

        S_ic = LSE_w s w_cw·x_i over the significant words w of text c
        L    = -mean_i log [Σ_k exp S_i,ik / (Σ_c exp S_ic + Σ_{j≠i} Σ_k exp S_j,ik)]   (MIL-NCE: one softmax an image)

    Which words are significant, `text_token_mask` says; a text without any counts for nothing.  Tokens must be as wide
    as the embeddings.  The released form has no temperature, s = 1; that code takes three words of every text.  Meant
    as a term of weight 0.1 to 0.3.  Memory: one tile, and the words of all rows in mode gather.
    """

    paper = "SNP-S3, Dong et al. 2024"
    forms = ("paper", "released")
    Config = WordsConfig
    config: WordsConfig
    needs = ("tokens",)
    optional_tensors = ("image_tokens",)

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        """See `Objective`.  Raises RecipeError for tokens of another width than the embeddings."""
        import torch

        from training.losses.loss_inputs import LossOutput
        from training.losses.token_similarity import cleaned
        from training.losses.word_similarity import word_loss

        asked = features.asked
        check_width(self.config.name, features.image_BD.shape[1], asked["text_tokens"].shape[3])
        image, words, exist = cleaned(
            features.image_BD[:, None], asked["text_tokens"], asked.get("text_token_mask"), rows.text_mask_BK
        )
        scale = torch.ones_like(features.scale) if self.form == "released" else features.scale
        total = word_loss(image[:, 0], words, exist, scale, rows.group_B, exchange, tile=self.setup.tile)
        return LossOutput(total, {self.config.name: total.detach()})


def check_width(name: str, width: int, of_tokens: int) -> None:
    """Raise RecipeError unless tokens can be compared with embeddings."""
    if width != of_tokens:
        raise RecipeError(
            f"loss.objective {name}: tokens must be as wide as the embeddings that they are compared with",
            value=f"{of_tokens}, embeddings: {width}",
            fix="project the tokens to the width of the embeddings",
        )
