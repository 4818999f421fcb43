"""The objective `uniform`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from pairmill.registry import NamedConfig
from training.objectives.declaration import Objective

if TYPE_CHECKING:
    from training.gather import Exchange
    from training.losses.loss_inputs import LossOutput
    from training.model import Features, Rows


class UniformConfig(NamedConfig):
    """How far the repulsion reaches."""

    t: float = Field(
        2.0, gt=0, le=100, description="of exp(-t·distance²); larger: only near vectors repel each other (2: the paper)"
    )


class Uniform(Objective):
    """The images spread over the sphere, and so do the texts, each among themselves.

        L = ½ log mean_{i<j} e^(−t‖x_i − x_j‖²) + ½ log mean_{i<j} e^(−t‖t_ik − t_jl‖²)

    The pairs are those of the whole batch.  Texts of one row do not repel each other, nor do rows of one group.
    A term: it says nothing of which text belongs to which image.  Weight 1 in the paper.  Not the released
    `cosine_uniformity`, which a line break makes forget the texts.
    """

    paper = "Contrastive gap, Fahim et al. 2024"
    Config = UniformConfig
    config: UniformConfig

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        """See `Objective`."""
        from training.losses.loss_inputs import LossOutput
        from training.losses.pairs import log_mean_energy, members, peers_share

        batch = members(features.image_BD, features.text_BKD, rows, exchange)
        both = [
            log_mean_energy(one, one, self.config.t, exchange=exchange, tile=self.setup.tile)
            for one in (batch.image, batch.all_texts())
        ]
        total = (both[0] + both[1]) / 2 * peers_share(batch.rows, exchange).to(both[0].dtype)
        return LossOutput(total, {self.config.name: total.detach()})
