"""The objective `rocket`."""

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


class RocketConfig(NamedConfig):
    """Targets and temperature of the strongly augmented pairs, and the widths of their projectors."""

    smoothing: float = Field(
        0.1, ge=0, lt=1, description="share of a target spread over all candidates (0.1: released)"
    )
    temperature: float = Field(
        0.1, gt=0, description="of strongly augmented pairs, where it begins; it is learnt (0.1: ours)"
    )
    hidden: int = Field(4096, ge=1, description="width of the projectors' two hidden layers (4096: the paper)")
    width: int = Field(256, ge=1, description="width of the projections (256: the paper)")


class Rocket(Objective):
    """CLIP on weakly augmented pairs, and CLIP with smoothed targets on strongly augmented ones (CLIP-Rocket, CL2L).

        L = [ CLIP(x, t) + V · mean_{a,b} CLIP_ε(h(x̃_a), g(t̃_b)) ] / (1 + V)

    x, t: the image as `data.augment` crops it (weakly: scale [0.5, 1]) and the row's text of the first slot.  x̃_a, t̃_b:
    its V strongly augmented views and as many draws of that text (`data.views`: number 2, scale [0.08, 1], hue 0.1,
    mirror and blur, and the transform `eda` of texts are the paper's).  h, g: projectors of three linear layers, one
    for images and one for texts, with a temperature of their own.  CLIP_ε: targets as of `label_smoothing`.  Views are
    of all rows that have a text.

    The hidden norms are layer norms, where the paper has batch norm, and h and g start at the embeddings, where the
    paper's start at the towers' outputs before their projection.  The code's sum in place of the mean is a weight of 2.
    """

    paper = "Improved baselines (CLIP-Rocket), Fini et al. 2023"
    Config = RocketConfig
    config: RocketConfig
    needs = ("views",)
    parameters = (*perceptron_names(("image", "text"), 3), "log_scale")

    def heads(self, setup: Setup) -> nn.Module:
        """See `Objective`."""
        from training.losses.view_projectors import ViewProjectors

        hidden = self.config.hidden
        return ViewProjectors((setup.width, hidden, hidden, self.config.width), self.config.temperature)

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        """See `Objective`."""
        import torch

        from training.losses.compose import compute_loss
        from training.losses.contrast import one_slot
        from training.losses.loss_inputs import LossInputs, LossOutput
        from training.losses.view_projectors import unit_views
        from training.objectives.contrastive import inputs_of
        from training.objectives.label_smoothing import smoothed

        mask_BK, tile = rows.text_mask_BK, self.setup.tile
        weak = compute_loss(inputs_of(features, rows), [one_slot(mask_BK, 0)], exchange, tile=tile)
        there = mask_BK.any(1)
        image_BVE, text_BVE = (unit_views(features.own.rows[f"{name}_views"], there) for name in ("image", "text"))
        views = image_BVE.shape[1]
        mask_BV = there[:, None].expand(-1, views)
        contrasts = [smoothed(one_slot(mask_BV, view), self.config.smoothing) for view in range(views)]
        losses = [
            compute_loss(
                LossInputs(image_BE, text_BVE, mask_BV, features.own.shared["scale"], None, rows.group_B),
                contrasts,
                exchange,
                tile=tile,
            )
            for image_BE in image_BVE.unbind(1)
        ]
        strong = torch.stack(losses).mean()
        parts = {"weak": weak / (1 + views), "strong": strong * views / (1 + views)}
        return LossOutput(parts["weak"] + parts["strong"], {name: part.detach() for name, part in parts.items()})
