"""The objective `circle`."""

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

#: What the released code divides the loss by.
_RELEASED = 10.0


class CircleConfig(NamedConfig):
    """How sharp it is, and how far apart positives and negatives should be."""

    gamma: float = Field(32.0, gt=0, description="scale of the cosines; 32: DreamLIP's")
    margin: float = Field(0.25, ge=0, lt=1, description="relaxation m: positives towards 1 - m, negatives towards m")


class Circle(Objective):
    """All texts of an image are its positives, and pairs weigh the more the farther they are from where they should be.

        L = mean_i log(1 + Σ_n exp(γ α_n (s_n - m)) · Σ_p exp(-γ α_p (s_p - (1 - m)))),
        α_n = max(0, s_n + m),   α_p = max(0, 1 + m - s_p),   not differentiated

    s: cosines of image i with its own texts (p) and with the others (n), other rows of its group excepted.  DreamLIP
    (Zheng et al. 2024) can add it to CLIP, from images to texts as here; its code divides it by ten (`released`).  The
    temperature does not enter.
    """

    Config = CircleConfig
    config: CircleConfig
    paper = "Circle loss, Sun et al. 2020"
    forms = ("paper", "released")

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        """See `Objective`."""
        from training.losses.circle_value import circle_loss
        from training.losses.loss_inputs import LossOutput

        total = circle_loss(
            inputs_of(features, rows),
            exchange,
            tile=self.setup.tile,
            gamma=self.config.gamma,
            margin=self.config.margin,
        )
        total = total / _RELEASED if self.form == "released" else total
        return LossOutput(total, {self.config.name: total.detach()})
