"""Projectors of a row's strongly augmented views, with a temperature of their own.

B rows of this rank, V views, D embedding, E projected.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from torch import Tensor

from training.losses.projectors import ScaledProjectors
from training.losses.tiles import wide
from training.model import Own


class ViewProjectors(ScaledProjectors):
    """One perceptron for image views and one for text views: `image_views` and `text_views` [B, V, E], and `scale`."""

    def forward(self, image_BD: Tensor, text_BKD: Tensor, asked: Mapping[str, Tensor] | None = None) -> Own:
        """Project the views, of the need `views`."""
        made = {}
        for name, projector in (("image_views", self.image), ("text_views", self.text)):
            # What is missing may hold anything, and 0·nan in the gradient of a weight would be nan.
            made[name] = projector((asked or {})[name].nan_to_num(nan=0.0, posinf=0.0, neginf=0.0))
        return Own(made, {"scale": self.log_scale.exp().sum()})


def unit_views(views_BVE: Tensor, there_B: Tensor) -> Tensor:
    """Unit vectors; a constant where there is no row, as the direction of zeros has no gradient."""
    return F.normalize(torch.where(there_B[:, None, None], wide(views_BVE), 1.0), dim=-1)
