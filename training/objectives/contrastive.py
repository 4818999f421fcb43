"""What the contrastive objectives share: contrasts, computed by the tiled kernels of `training/losses/`.

B rows of this rank, K text slots.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from training.objectives.declaration import Objective

if TYPE_CHECKING:
    from torch import Tensor

    from training.gather import Exchange
    from training.losses.contrast import Contrast
    from training.losses.loss_inputs import LossOutput
    from training.model import Features, Rows


class Contrastive(Objective):
    """Base of objectives that are contrasts of images with texts."""

    def contrasts(self, text_mask_BK: Tensor) -> list[Contrast]:
        """Which texts an image should be close to, and with what weight; bool [B, K] -> contrasts."""
        raise NotImplementedError

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        """See `Objective`."""
        from training.losses.compose import compute_loss
        from training.losses.loss_inputs import LossInputs, LossOutput

        inputs = LossInputs(
            features.image_BD, features.text_BKD, rows.text_mask_BK, features.scale, features.bias, rows.group_B
        )
        total = compute_loss(inputs, self.contrasts(rows.text_mask_BK), exchange, tile=self.setup.tile)
        return LossOutput(total, {self.config.name: total.detach()})
