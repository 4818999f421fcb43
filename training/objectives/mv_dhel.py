"""The objective `mv_dhel`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from pairmill.registry import NamedConfig
from training.objectives.declaration import Objective

if TYPE_CHECKING:
    from training.gather import Exchange
    from training.losses.loss_inputs import LossOutput
    from training.model import Features, Rows


class MvDhelConfig(NamedConfig):
    """Its temperature, which is not learnt."""

    temperature: float = Field(
        0.2, gt=0, description="τ (0.2: released default; the paper trains CIFAR with 0.5, ImageNet with 0.1)"
    )


class MvDhel(Objective):
    """Alignment of all views of a row in one term, and repulsion within each view alone.

        L = mean_i [ Σ_l log Σ_{j≠i} exp(u_il·u_jl/τ)  −  log Σ_{l<m} exp(u_il·u_im/τ) ]

    The views of row i are its image, u_i0, and the texts of its slots, u_ik; l and m run over those that it has, j over
    rows that have view l too, of the whole batch and of other groups.  So a slot should always hold the same kind of
    text.  There are no negatives between images and texts: add it to `clip`, with a weight of 0.1 to 1.

    Computed with log-sum-exps, where the released product of sums overflows; the value is the same.
    """

    paper = "MV-DHEL, Koromilas et al. 2025"
    Config = MvDhelConfig
    config: MvDhelConfig

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        """See `Objective`."""
        from training.losses.loss_inputs import LossOutput
        from training.losses.multi_view import mv_dhel
        from training.losses.pairs import members

        batch = members(features.image_BD, features.text_BKD, rows, exchange)
        total = mv_dhel(batch, self.config.temperature, exchange=exchange, tile=self.setup.tile)
        return LossOutput(total, {self.config.name: total.detach()})
