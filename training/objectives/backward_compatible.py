"""The objective `backward_compatible`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from pairmill.errors import RecipeError
from pairmill.registry import NamedConfig
from training.objectives.declaration import Objective, Setup
from training.objectives.head_names import perceptron_names

if TYPE_CHECKING:
    from torch import nn

    from training.gather import Exchange
    from training.losses.loss_inputs import LossOutput
    from training.model import Features, Rows


class BackwardCompatibleConfig(NamedConfig):
    """Widths of the projection into the old model's space."""

    width: int | None = Field(None, ge=1, description="width of the old model's embeddings; null: that of the model")
    hidden: int = Field(2048, ge=1, description="width of the projection's hidden layer (the paper's is not published)")


class BackwardCompatible(Objective):
    """A projection takes the new model's texts into an old model's space, whose index of images stays (XBT).

        L = mean_ik [ 1 − cos(φ(t_ik), t'_ik) ] + InfoNCE(φ(t), t')

    t' are the texts of the old model, which does not learn; φ has two linear layers with layer norm and ReLU between
    them.  InfoNCE is CLIP's, both ways over all texts of the batch at the model's temperature; texts of one row and of
    one group are no negatives of each other.  It is the paper's first stage: texts alone, so that no old image is
    encoded again.  φ is among the objective's parameters in the checkpoint, not in the exported model.
    """

    paper = "XBT, Jang and Lim 2024"
    needs = ("frozen_teacher",)
    optional_tensors = ("teacher_image",)
    Config = BackwardCompatibleConfig
    config: BackwardCompatibleConfig
    parameters = perceptron_names(("projection",), 2)

    def heads(self, setup: Setup) -> nn.Module:
        """See `Objective`."""
        from training.losses.projectors import TextProjector

        return TextProjector((setup.width, self.config.hidden, self.config.width or setup.width))

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        """See `Objective`."""
        from training.losses.backward import compatibility_loss
        from training.losses.loss_inputs import LossOutput

        new, old = features.own.rows["text"], None if features.frozen is None else features.frozen.text_BKD
        if old is None or old.shape != new.shape:
            raise RecipeError(
                "loss.objective backward_compatible must have an old model, of the width that it projects to",
                value=f"width {new.shape[2]}; the old model: {'none' if old is None else old.shape[2]}",
                fix="set the objective's width to that of the old model",
            )
        apart, contrast = compatibility_loss(new, old, features.scale, rows, exchange, tile=self.setup.tile)
        total = apart + contrast
        return LossOutput(total, {self.config.name: total.detach()})
