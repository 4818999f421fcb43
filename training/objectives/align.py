"""The objective `align`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from training.objectives.declaration import Objective

if TYPE_CHECKING:
    from training.gather import Exchange
    from training.losses.loss_inputs import LossOutput
    from training.model import Features, Rows


class Align(Objective):
    """An image and its texts lie close together, whatever else there is: no negatives.

        L = mean_i mean_k ‖x_i − t_ik‖²

    The means run over rows with a text and over the texts of each.  A term: alone it pulls everything to one point.
    Added with weight 1, like `uniform`, by the contrastive gap's paper; the idea is Wang and Isola's (2020).
    """

    paper = "Contrastive gap, Fahim et al. 2024"

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        """See `Objective`."""
        import torch

        from training.losses.loss_inputs import LossOutput
        from training.losses.present import batch_mean
        from training.losses.tiles import wide

        mask = rows.text_mask_BK
        between = torch.where(mask[..., None], wide(features.image_BD)[:, None] - wide(features.text_BKD), 0.0)
        total = batch_mean(between.square().sum((1, 2)) / mask.sum(1).clamp(min=1), mask.any(1), exchange)
        return LossOutput(total, {self.config.name: total.detach()})
