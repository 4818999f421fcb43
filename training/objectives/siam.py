"""The objective `siam`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from pairmill.registry import NamedConfig
from training.objectives.declaration import Objective, Setup
from training.objectives.head_names import perceptron_names

if TYPE_CHECKING:
    from torch import nn

    from training.gather import Exchange
    from training.losses.loss_inputs import LossOutput
    from training.model import Features, Rows


class SiamConfig(NamedConfig):
    """Whose projection is predicted, and the widths of the heads."""

    target: Literal["online", "teacher"] = Field(
        "online",
        description="whose projections are predicted: online: the model's own (SiamLIP); teacher: those of its moving "
        "average (BYOLIP)",
    )
    decay: float = Field(
        0.99, gt=0, lt=1, description="share of the teacher that a step leaves as it was (0.99: the paper)"
    )
    hidden: int = Field(2048, ge=1, description="width of the heads' hidden layer (2048: the paper)")
    width: int = Field(128, ge=1, description="width of the projections (128: the paper)")


class Siam(Objective):
    """An image's projection predicts that of its text, and a text's that of its image (SiamLIP, BYOLIP).

        L = ½ mean_i mean_k [ 2 − 2 cos(p(v_i), sg w_ik) + 2 − 2 cos(q(w_ik), sg v_i) ]

    v and w are projections of image and text, p and q predictors, sg lets no gradient through.  There are no negatives.
    A term, added to `clip` with weight 1.  Projectors and predictors have one hidden layer each; its norm is a layer
    norm, where the paper has batch norm, and the projections are not normalised over the batch.
    """

    paper = "Improved baselines (SiamLIP), Fini et al. 2023"
    Config = SiamConfig
    config: SiamConfig
    parameters = perceptron_names(("image", "text", "image_predictor", "text_predictor"), 2)

    def __init__(self, config: SiamConfig) -> None:
        """See `Objective`."""
        super().__init__(config)
        self.needs = ("teacher",) if config.target == "teacher" else ()

    @property
    def teacher_decay(self) -> float:
        """See `Objective`."""
        return self.config.decay

    def heads(self, setup: Setup) -> nn.Module:
        """See `Objective`."""
        from training.losses.projectors import Predictors

        return Predictors(setup.width, self.config.hidden, self.config.width)

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        """See `Objective`."""
        from training.losses.head_losses import prediction_loss
        from training.losses.loss_inputs import LossOutput

        own = features.own.rows
        target = self.teacher_of(features).own.rows if self.config.target == "teacher" else own
        total = prediction_loss(
            (own["image_guess"], own["text_guess"]), (target["image"], target["text"]), rows.text_mask_BK, exchange
        )
        return LossOutput(total, {self.config.name: total.detach()})
