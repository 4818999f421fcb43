"""The objective `pixpro`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from pairmill.registry import NamedConfig
from training.objectives.declaration import Objective, Setup

if TYPE_CHECKING:
    from torch import nn

    from training.gather import Exchange
    from training.losses.loss_inputs import LossOutput
    from training.model import Features, Rows


class PixproConfig(NamedConfig):
    """Which patches belong together, how they propagate, and the teacher."""

    distance: float = Field(
        0.7, gt=0, description="patches of two views nearer than this belong together; in diagonals of the larger patch"
    )
    power: float = Field(2.0, ge=1, description="what the cosine of two patches is raised to, as weight of propagation")
    decay: float = Field(0.99, gt=0, lt=1, description="share of the teacher that a step leaves as it was")


class Pixpro(Objective):
    """Patches of two views that lie at the same place of the image are alike, after propagation within a view.

        y_i = Σ_j max(cos(x_i, x_j), 0)² g(x_j)
        L   = -mean over rows of [mean over pairs cos(y_i, x'_j) + mean over pairs cos(y_j, x'_i)]

    i: patches of the first view, j: of the second; pairs are those whose centres are nearer than 0.7 of the diagonal of
    a patch, of the larger of the two.  x': of the moving average; g: a linear layer, the head parameter `transform`.
    A row whose views share no place counts for nothing.  The released code counts it in the mean as 0, makes g(x_j) of
    norm 1, and doubles the loss; form `released` does so too.  Its teacher's decay rises to 1, ours does not; its loss
    of whole views has a weight of 0 there and is left out.  Defaults: its script.  The same in every mode.
    Memory O(B·P²).
    """

    Config = PixproConfig
    config: PixproConfig
    paper = "PixPro, Xie et al. 2021"
    forms = ("paper", "released")
    needs = ("teacher", "view_tokens")
    teacher_tensors = ("view_tokens",)
    optional_tensors = ("teacher_image", "teacher_text")
    parameters = ("transform",)

    @property
    def teacher_decay(self) -> float:
        """See `Objective`."""
        return self.config.decay

    def heads(self, setup: Setup) -> nn.Module:
        """See `Objective`."""
        from training.losses.propagation import Transform

        return Transform(setup.width)

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        """See `Objective`."""
        from training.losses.loss_inputs import LossOutput
        from training.losses.present import batch_mean, zeroed
        from training.losses.propagation import at_one_place, likeness, propagated
        from training.losses.tiles import wide
        from training.losses.token_grids import check_width
        from training.precision import full_precision

        teacher = self.teacher_of(features)
        there, released = rows.text_mask_BK.any(1), self.form == "released"
        views_BVPD, transform_DD = features.asked["view_tokens"], features.own.shared["transform"]
        check_width("view_tokens", views_BVPD, len(transform_DD))
        with full_precision(views_BVPD.device):
            spread_BVPD = propagated(zeroed(views_BVPD, there), wide(transform_DD), self.config.power, unit=released)
            taught_BVPD = zeroed(teacher.asked["view_tokens"], there)
            boxes_BV4 = zeroed(features.asked["view_boxes"], there)
            pairs_BPP = at_one_place(boxes_BV4, views_BVPD.shape[2], self.config.distance) & there[:, None, None]
            losses = likeness(spread_BVPD[:, 0], taught_BVPD[:, 1], pairs_BPP)
            losses = losses + likeness(spread_BVPD[:, 1], taught_BVPD[:, 0], pairs_BPP.transpose(1, 2))
            counted = there if released else pairs_BPP.any(2).any(1)
            total = -batch_mean(losses, counted, exchange) * (2 if released else 1)
        return LossOutput(total, {self.config.name: total.detach()})
