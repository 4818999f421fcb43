"""The objective `self_supervised`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pairmill.registry import NamedConfig
from training.objectives.declaration import Objective

if TYPE_CHECKING:
    from training.gather import Exchange
    from training.losses.loss_inputs import LossOutput
    from training.model import Features, Rows


class SelfSupervisedConfig(NamedConfig):
    """It has no keys of its own."""


class SelfSupervised(Objective):
    """An image is close to another view of itself, and a text to another draw of it, each against those of other rows.

        L = ½ [CE(s X X̃ᵀ) + CE(s T T̃ᵀ)]   (mean over rows, and over views where there are several)

    X̃: `image_views` (CleanCLIP: AutoAugment).  T: a row's first text; T̃: `text_views` (CleanCLIP: EDA).  One direction
    only, as in the released code; the temperature is that of the objective it is added to, at a weight of 1.
    Memory O(G·D + tile) in every mode.  The rest of CleanCLIP's loss is `clip`.
    """

    Config = SelfSupervisedConfig
    paper = "CleanCLIP, Bansal et al. 2023"
    needs = ("views",)

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        """See `Objective`."""
        import torch

        from training.losses.loss_inputs import LossOutput
        from training.losses.negatives import Side, cross_entropy
        from training.losses.present import batch_mean, first_text, row_numbers, zeroed
        from training.precision import full_precision

        mask_BK = rows.text_mask_BK
        there, device = mask_BK.any(1), features.image_BD.device
        with full_precision(device):
            number = row_numbers(len(there), exchange, device)
            modalities = {
                "image": (zeroed(features.image_BD, there), features.asked["image_views"]),
                "text": (first_text(features.text_BKD, mask_BK), features.asked["text_views"]),
            }
            parts = {}
            for name, (own_BD, views_BVD) in modalities.items():
                queries = Side(own_BD, there, number, rows.group_B)
                each = []
                for view_BD in zeroed(views_BVD, there).unbind(1):
                    columns = queries._replace(vector=view_BD).of_peers(exchange)
                    positive = features.scale * (own_BD * view_BD).sum(1)
                    losses = cross_entropy(queries, columns, positive, features.scale, self.setup.tile)
                    each.append(batch_mean(losses, there, exchange))
                parts[name] = torch.stack(each).mean() / 2
            total = torch.stack(list(parts.values())).sum()
        return LossOutput(total, {name: part.detach() for name, part in parts.items()})
