"""The objective `sdm`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from pairmill.registry import NamedConfig
from training.objectives.contrastive import inputs_of
from training.objectives.declaration import Objective

if TYPE_CHECKING:
    from training.gather import Exchange
    from training.losses.loss_inputs import LossOutput
    from training.model import Features, Rows


class SdmConfig(NamedConfig):
    """The floor of its target."""

    epsilon: float = Field(1e-8, gt=0, description="added to the target before its logarithm; 1e-8: IRRA and GA-DMS")


class Sdm(Objective):
    """Similarity distribution matching: the softmax should be the distribution of the positives (also in GA-DMS).

        L = mean_i Σ_jk p_i,jk [log p_i,jk - log(q_i,jk + ε)]  +  mean_ik Σ_j p_ik,j [log p_ik,j - log(q_ik,j + ε)]

    p_i: softmax over the texts of s x_i·t_jk; p_ik: over images.  q: uniform over the positives.  Those are the texts
    and images of the row and of all rows of its group (`group_id`), which other objectives leave out.  The sum of both
    directions, not their mean.
    """

    Config = SdmConfig
    config: SdmConfig
    paper = "IRRA, Jiang and Ye 2023"

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        """See `Objective`."""
        from training.losses.loss_inputs import LossOutput
        from training.losses.reverse_kl import reverse_kl

        inputs = inputs_of(features, rows)
        total = reverse_kl(inputs, exchange, tile=self.setup.tile, epsilon=self.config.epsilon)
        return LossOutput(total, {self.config.name: total.detach()})
