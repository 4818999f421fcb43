"""The objective `mv_infonce`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from pairmill.registry import NamedConfig
from training.objectives.declaration import Objective

if TYPE_CHECKING:
    from training.gather import Exchange
    from training.losses.loss_inputs import LossOutput
    from training.model import Features, Rows


class MvInfonceConfig(NamedConfig):
    """Its temperature, which is not learnt."""

    temperature: float = Field(
        0.2, gt=0, description="τ (0.2: released default; the paper trains CIFAR with 0.5, ImageNet with 0.1)"
    )


class MvInfonce(Objective):
    """One term a row over all of its views: InfoNCE of an image with several texts.

        L = mean_i [ log Σ_{l, j, m in E} exp(u_il·u_jm/τ)  −  log Σ_{l≠m} exp(u_il·u_im/τ) ],   E: m ≠ l, any row j

    The views of row i are its image, u_i0, and the texts of its slots, u_ik; the sums run over those that there are,
    j over the rows of the whole batch without others of i's group.

    The released code differs: its E is (j, m) ≠ (i, l), with negatives of the same view too (texts of slot 1 against
    texts of slot 1).  That is the form `released`.
    """

    paper = "MV-InfoNCE, Koromilas et al. 2025"
    forms = ("paper", "released")
    Config = MvInfonceConfig
    config: MvInfonceConfig

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        """See `Objective`."""
        from training.losses.loss_inputs import LossOutput
        from training.losses.multi_view import mv_infonce
        from training.losses.pairs import members

        batch = members(features.image_BD, features.text_BKD, rows, exchange)
        total = mv_infonce(
            batch,
            self.config.temperature,
            within_views=self.form == "released",
            exchange=exchange,
            tile=self.setup.tile,
        )
        return LossOutput(total, {self.config.name: total.detach()})
