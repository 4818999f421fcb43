"""The objective `image_grounded`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pairmill.registry import NamedConfig
from training.objectives.declaration import Objective

if TYPE_CHECKING:
    from training.gather import Exchange
    from training.losses.loss_inputs import LossOutput
    from training.model import Features, Rows


class ImageGroundedConfig(NamedConfig):
    """It has no keys of its own."""


class ImageGrounded(Objective):
    """An image is closer to each of its texts than to the wrong texts that were written for it (IGC).

        L = mean_ik CE(s x_i·[t_ik, n_i1 … n_iN], 0)

    Own candidates only: no other row is a negative.  A mean over texts whose row has a negative, the same in every
    mode.  DeGLA adds it to `with_negatives` at a weight of 0.1.
    """

    Config = ImageGroundedConfig
    paper = "DeGLA, Hu et al. 2025"
    needs = ("negatives",)

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        """See `Objective`."""
        import torch

        from training.losses.hard_negatives import among_candidates, negatives_of
        from training.losses.loss_inputs import LossOutput
        from training.losses.present import batch_mean, zeroed
        from training.precision import full_precision

        mask_BK = rows.text_mask_BK
        with full_precision(features.image_BD.device):
            image_BD, text_BKD = zeroed(features.image_BD, mask_BK.any(1)), zeroed(features.text_BKD, mask_BK)
            neg_BND, neg_mask_BN = negatives_of(features.asked, mask_BK)
            positive_BK = features.scale * torch.einsum("bd,bkd->bk", image_BD, text_BKD)
            negative_BN = features.scale * torch.einsum("bd,bnd->bn", image_BD, neg_BND)
            losses = among_candidates(
                positive_BK, negative_BN[:, None].expand(-1, mask_BK.shape[1], -1), neg_mask_BN[:, None]
            )
            total = batch_mean(losses, mask_BK & neg_mask_BN.any(1, keepdim=True), exchange)
        return LossOutput(total, {self.config.name: total.detach()})
