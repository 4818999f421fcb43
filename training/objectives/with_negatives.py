"""The objective `with_negatives`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pairmill.registry import NamedConfig
from training.objectives.declaration import Objective

if TYPE_CHECKING:
    from training.gather import Exchange
    from training.losses.loss_inputs import LossOutput
    from training.model import Features, Rows


class WithNegativesConfig(NamedConfig):
    """It has no keys of its own."""


class WithNegatives(Objective):
    """As `clip`, and each image is told its text from the wrong texts that were written for any row.

        L = ½ [CE(s X [T; N]ᵀ) + CE(s T Xᵀ)]   (mean over rows)

    T: the first text slot; N: the negatives of all rows.  They have no image, so the softmax over images leaves them
    out.  Without any negative it is `clip`.  DeGLA's total is this + 0.1 `image_grounded` + 0.1 `text_grounded` + 0.005
    times the batch `ema_distill`.
    """

    Config = WithNegativesConfig
    paper = "DeGLA, Hu et al. 2025"
    needs = ("negatives",)

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        """See `Objective`."""
        import torch

        from training.gather import Columns
        from training.losses.hard_negatives import negatives_of
        from training.losses.loss_inputs import LossOutput
        from training.losses.present import batch_mean, row_numbers, zeroed
        from training.losses.softmax import softmax_value
        from training.losses.tiles import Queries
        from training.precision import full_precision

        there = rows.text_mask_BK[:, 0]
        with full_precision(features.image_BD.device):
            image_BD, text_BD = zeroed(features.image_BD, there), zeroed(features.text_BKD[:, 0], there)
            neg_BND, neg_mask_BN = negatives_of(features.asked, rows.text_mask_BK[:, :1])
            count = exchange.total(there.sum().double()).clamp(min=1)
            weight_B = there.to(image_BD.dtype) / (2 * count.to(image_BD.dtype))
            number = row_numbers(len(there), exchange, there.device)
            all_BM = 1 + neg_BND.shape[1]
            columns = Columns(
                torch.cat([text_BD[:, None], neg_BND], 1).flatten(0, 1),
                torch.cat([there[:, None], neg_mask_BN], 1).flatten(),
                torch.cat([weight_B[:, None], weight_B.new_zeros(neg_mask_BN.shape)], 1).flatten(),
                number.repeat_interleave(all_BM),
                rows.group_B.repeat_interleave(all_BM),
            )
            queries = Queries(image_BD, there, weight_B, number, rows.group_B)
            value = softmax_value(queries, columns, features.scale, exchange=exchange, tile=self.setup.tile)
            total = value - batch_mean(features.scale * (image_BD * text_BD).sum(1), there, exchange)
        return LossOutput(total, {self.config.name: total.detach()})
