"""The objective `lotlip`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from pairmill.errors import RecipeError
from pairmill.registry import NamedConfig
from training.losses.contrast import one_slot
from training.objectives.contrastive import inputs_of
from training.objectives.declaration import Objective

if TYPE_CHECKING:
    from training.gather import Exchange
    from training.losses.loss_inputs import LossOutput
    from training.model import Features, Rows


class LotlipConfig(NamedConfig):
    """What short texts count for, and what long ones."""

    short_weight: float = Field(1.0, ge=0, description="λ_c, of the first slot's text (LoTLIP: 1)")
    long_weight: float = Field(1.0, ge=0, description="λ_d, of every feature of the other slots (LoTLIP: 1)")


class Lotlip(Objective):
    """An image is close to its short text, and to each of several features of its long ones (LoTLIP, Wu et al. 2024).

        L         = λ_c/(2F) pair(X, f_0) + λ_d Σ_{f≠0} 1/(2F) pair(X, f),   F = 1 + (T-1)(m+1)
        pair(X,f) = CE(s X fᵀ) + CE(s f Xᵀ)

    f_0: the embedding of the first slot's text, [CLS] or [EOT].  The other features are, for each other slot, that
    embedding and those of the m corner tokens (`model.corner_tokens`).  Each has its own softmax, with the negatives of
    that feature only.  T: slots with a text in any row.  The first slot is the short or raw caption, the others are
    long ones: `data.texts: [[{kind: alt}], [{kind: long}]]`.  The released code, whose tower is BERT, joins the
    sentences of a text with [SEP]; so does the transform `{name: sentences, merged: 100, joined_by: " [SEP] "}`.

    Whoever embeds texts, short or long, takes [CLS] or [EOT] alone.
    """

    paper = "LoTLIP, Wu et al. 2024"
    Config = LotlipConfig
    config: LotlipConfig
    needs = ("text_extra",)

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        """See `Objective`.  Raises RecipeError for corner features of another form."""
        import torch

        from training.losses.compose import compute_loss
        from training.losses.loss_inputs import LossOutput

        text_BKD, extra_BKmD, mask_BK = features.text_BKD, features.asked["text_extra"], rows.text_mask_BK
        if extra_BKmD.ndim != 4 or (*extra_BKmD.shape[:2], extra_BKmD.shape[3]) != tuple(text_BKD.shape):
            raise RecipeError(
                "text_extra must be [B, K, m, D], the corner tokens of every text",
                value=f"{list(extra_BKmD.shape)}; text: {list(text_BKD.shape)}",
                fix="give the features of each text's corners, in the width of its embedding",
            )
        slots, corners = text_BKD.shape[1], extra_BKmD.shape[2]
        # Features as if they were slots: all embeddings, then the corners of every slot but the first.
        corner_BFD, corner_mask_BF = extra_BKmD[:, 1:].flatten(1, 2), mask_BK[:, 1:].repeat_interleave(corners, 1)
        inputs = inputs_of(features, rows)._replace(
            text_BKD=torch.cat([text_BKD, corner_BFD], 1), text_mask_BK=torch.cat([mask_BK, corner_mask_BF], 1)
        )
        weights = [self.config.short_weight] + [self.config.long_weight] * (inputs.text_BKD.shape[1] - 1)
        contrasts = [one_slot(inputs.text_mask_BK, at)._replace(share=share) for at, share in enumerate(weights)]
        # The kernels divide by the shares of the features that are there; F is their number.
        used_K = exchange.total(mask_BK.any(0).double()) > 0
        used = used_K.double() * torch.tensor([1.0] + [corners + 1.0] * (slots - 1)).to(used_K.device)
        share = used @ torch.tensor([self.config.short_weight] + [self.config.long_weight] * (slots - 1)).to(used)
        total = compute_loss(inputs, contrasts, exchange, tile=self.setup.tile)
        total = total * (share / used.sum().clamp(min=1)).to(total.dtype)
        return LossOutput(total, {self.config.name: total.detach()})
