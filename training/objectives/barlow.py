"""The objective `barlow`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from pairmill.registry import NamedConfig
from training.objectives.declaration import Objective, Setup
from training.objectives.head_names import perceptron_names

if TYPE_CHECKING:
    from torch import nn

    from training.gather import Exchange
    from training.losses.loss_inputs import LossOutput
    from training.model import Features, Rows


class BarlowConfig(NamedConfig):
    """Widths of its projectors, and what its parts weigh."""

    hidden: int = Field(3000, ge=1, description="width of the projectors' two hidden layers (3000: released default)")
    width: int = Field(
        8192, ge=1, description="width of the projections (8192: the paper); takes width² numbers of 4 bytes"
    )
    off_diagonal: float = Field(5e-3, ge=0, description="weight of what should be 0 (5e-3: the paper)")
    scale: float = Field(0.025, ge=0, description="of the whole loss (0.025: the paper)")


class Barlow(Objective):
    """Projections of images and texts agree in each number, and say no two things alike (BarLIP).

        L = scale · [ Σ_d (1 − C_dd)² + off_diagonal · Σ_{d≠e} C_de² ]

    C is the correlation matrix of the two projections over all pairs of an image and one of its texts in the whole
    batch; there are no negatives, so groups change nothing.  A term, added to `clip` with weight 1.  One projector of
    three linear layers for images and one for texts; their hidden norms are layer norms, where the paper has batch
    norm.  The correlation matrix is float32 and is sent once a step.
    """

    paper = "Improved baselines (BarLIP), Fini et al. 2023"
    Config = BarlowConfig
    config: BarlowConfig
    parameters = perceptron_names(("image", "text"), 3)

    def heads(self, setup: Setup) -> nn.Module:
        """See `Objective`."""
        from training.losses.projectors import Projectors

        return Projectors((setup.width, self.config.hidden, self.config.hidden, self.config.width))

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        """See `Objective`."""
        from training.losses.head_losses import cross_correlation_loss
        from training.losses.loss_inputs import LossOutput

        own = features.own.rows
        loss = cross_correlation_loss(own["image"], own["text"], rows.text_mask_BK, self.config.off_diagonal, exchange)
        total = self.config.scale * loss
        return LossOutput(total, {self.config.name: total.detach()})
