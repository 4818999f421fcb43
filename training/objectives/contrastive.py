"""What the contrastive objectives share: contrasts, computed by the tiled kernels of `training/losses/`.

B rows of this rank, K text slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from training.objectives.declaration import Objective

if TYPE_CHECKING:
    from torch import Tensor

    from training.gather import Exchange
    from training.losses.contrast import Contrast
    from training.losses.loss_inputs import LossInputs, LossOutput
    from training.model import Features, Rows


class Contrastive(Objective):
    """Base of objectives that are contrasts of images with texts: define `contrasts`, or `targets`."""

    #: What each pair of the latest step cost, by contrast (`compose.Computed`), for `after_step`.
    pairs: Sequence[Tensor] = ()

    @property
    def total_weight(self) -> float:
        """What the mean of the contrasts is multiplied by."""
        return 1.0

    def contrasts(self, text_mask_BK: Tensor) -> list[Contrast]:
        """Which texts an image should be close to, and with what weight; bool [B, K] -> contrasts."""
        raise NotImplementedError

    def targets(self, features: Features, rows: Rows) -> list[Contrast]:
        """As `contrasts`, for what the mask alone does not decide; equally many on all ranks."""
        return self.contrasts(rows.text_mask_BK)

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        """See `Objective`."""
        from training.losses.compose import compute_with_pairs
        from training.losses.loss_inputs import LossOutput

        found = compute_with_pairs(
            inputs_of(features, rows), self.targets(features, rows), exchange, tile=self.setup.tile
        )
        self.pairs = found.pairs
        total = found.total * self.total_weight
        return LossOutput(total, {self.config.name: total.detach()})


def inputs_of(features: Features, rows: Rows) -> LossInputs:
    """What the kernels are given."""
    from training.losses.loss_inputs import LossInputs

    return LossInputs(
        features.image_BD, features.text_BKD, rows.text_mask_BK, features.scale, features.bias, rows.group_B
    )


def frozen_of(objective: Objective, features: Features, rows: Rows) -> Features:
    """The embeddings of the need `frozen_teacher`, zeros where a text or a row's texts are missing."""
    return present(objective.teacher_of(features, frozen=True), rows.text_mask_BK)


def present(features: Features, text_mask_BK: Tensor) -> Features:
    """Embeddings that are zeros where a text, or all texts of a row, are missing: they may hold anything there."""
    import torch

    return features._replace(
        image_BD=torch.where(text_mask_BK.any(1)[:, None], features.image_BD, 0.0),
        text_BKD=torch.where(text_mask_BK[..., None], features.text_BKD, 0.0),
    )
