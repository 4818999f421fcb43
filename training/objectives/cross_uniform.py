"""The objective `cross_uniform`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from pairmill.registry import NamedConfig
from training.objectives.declaration import Objective

if TYPE_CHECKING:
    from training.gather import Exchange
    from training.losses.loss_inputs import LossOutput
    from training.model import Features, Rows


class CrossUniformConfig(NamedConfig):
    """How far the repulsion reaches."""

    t: float = Field(
        2.0, gt=0, le=100, description="of exp(-t·distance²); larger: only near vectors repel each other (2: the paper)"
    )


class CrossUniform(Objective):
    """Images keep away from the texts of other rows.

        L = log mean_{i≠j} e^(−t‖x_i − t_jk‖²)

    The pairs are those of the whole batch, without rows of one group.  A term, of weight 1 in the paper.
    """

    paper = "Contrastive gap, Fahim et al. 2024"
    Config = CrossUniformConfig
    config: CrossUniformConfig

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        """See `Objective`."""
        from training.losses.loss_inputs import LossOutput
        from training.losses.pairs import log_mean_energy, members, peers_share

        batch = members(features.image_BD, features.text_BKD, rows, exchange)
        value = log_mean_energy(batch.image, batch.all_texts(), self.config.t, exchange=exchange, tile=self.setup.tile)
        total = value * peers_share(batch.rows, exchange).to(value.dtype)
        return LossOutput(total, {self.config.name: total.detach()})
