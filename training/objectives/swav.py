"""The objective `swav`."""

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


class SwavConfig(NamedConfig):
    """How assignments are balanced, and the widths of the projectors."""

    epsilon: float = Field(
        0.05,
        ge=0.03,
        description="softness of the assignments (0.05: the paper); below 0.03 float32 does not hold them",
    )
    iterations: int = Field(3, ge=1, description="of Sinkhorn and Knopp's algorithm (3: the paper)")
    temperature: float = Field(
        0.1, gt=0, description="of the predictions, where it begins; it is learnt (0.1: released)"
    )
    hidden: int = Field(4096, ge=1, description="width of the projectors' two hidden layers (4096: the paper)")
    width: int = Field(256, ge=1, description="width of the projections (256: the paper)")


class Swav(Objective):
    """Who belongs to whom is told by a balanced assignment of the whole batch, not by who came with whom (SwALIP).

        L = mean_k ½ mean_i [ CE(s h_i H_kᵀ, Q_k'(i)) + CE(s h_ik Hᵀ, R_k'(i)) ]

    h are normalised projections of image and texts, H those of the whole batch.  Q_k' is exp(cos/ε) of all images with
    all texts of another slot, brought to equal sums of columns and rows by Sinkhorn's algorithm; R_k' the same of texts
    with images; neither lets a gradient through.  Slot k' is the one after k, where the paper swaps augmented views:
    rows take part that have a text in both.  With one slot an assignment is of the same texts.  Rows of one group are
    not assigned to each other.

    A term, added to `clip` with weight 0.2.  One projector of three linear layers for images and one for texts; their
    hidden norms are layer norms, where the paper has batch norm.  It holds the logits, O(B·G) memory.
    """

    paper = "Improved baselines (SwALIP), Fini et al. 2023"
    Config = SwavConfig
    config: SwavConfig
    parameters = (*perceptron_names(("image", "text"), 3), "log_scale")

    def heads(self, setup: Setup) -> nn.Module:
        """See `Objective`."""
        from training.losses.projectors import ScaledProjectors

        hidden = self.config.hidden
        return ScaledProjectors((setup.width, hidden, hidden, self.config.width), self.config.temperature)

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        """See `Objective`."""
        from training.losses.head_losses import assignment_loss
        from training.losses.loss_inputs import LossOutput

        total = assignment_loss(
            features.own.rows["image"],
            features.own.rows["text"],
            features.own.shared["scale"],
            rows,
            exchange,
            epsilon=self.config.epsilon,
            iterations=self.config.iterations,
        )
        return LossOutput(total, {self.config.name: total.detach()})
