"""Patches of two views of an image: which lie at one place, and how each takes in those that are like it.

B rows of this rank, V views, P patches of a view, D embedding.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from torch import Tensor, nn

from training.losses.token_grids import side_of
from training.model import Own


class Transform(nn.Module):
    """A linear layer for patches, without bias."""

    def __init__(self, width: int) -> None:
        """width: of patches, D."""
        super().__init__()
        self.transform = nn.Parameter(torch.randn(width, width) / width**0.5)

    def forward(self, image_BD: Tensor, text_BKD: Tensor, asked: Mapping[str, Tensor] | None = None) -> Own:
        """`transform` [D, D], whatever the rows."""
        return Own({}, {"transform": self.transform.clone()})


def propagated(tokens_BVPD: Tensor, transform_DD: Tensor, power: float, *, unit: bool) -> Tensor:
    """Each patch as the sum of the transformed patches of its view, weighted by how like they are to it [B, V, P, D].

    unit: transformed patches have norm 1.
    """
    value = tokens_BVPD @ transform_DD
    value = F.normalize(value, dim=-1) if unit else value
    return (tokens_BVPD @ tokens_BVPD.transpose(-1, -2)).clamp(min=0).pow(power) @ value


def at_one_place(boxes_BV4: Tensor, patches: int, distance: float) -> Tensor:
    """Whether a patch of the first view lies where one of the second does, bool [B, P, P].

    boxes: where the views lie in the image, as left, top, right and bottom in one unit; right of left where mirrored.
    Centres must be nearer than `distance` diagonals of a patch of the view whose patches are larger.
    """
    side = side_of("view_tokens", patches)
    at = (torch.arange(side, device=boxes_BV4.device, dtype=boxes_BV4.dtype) + 0.5) / side
    corner, size = boxes_BV4[..., :2], boxes_BV4[..., 2:] - boxes_BV4[..., :2]
    across, down = torch.meshgrid(at, at, indexing="xy")
    step = torch.stack([across.flatten(), down.flatten()], -1)
    centre_BVP2 = corner[:, :, None] + step * size[:, :, None]
    diagonal_BV = (size / side).norm(dim=-1)
    gap_BPP = (centre_BVP2[:, 0, :, None] - centre_BVP2[:, 1, None, :]).norm(dim=-1)
    near: Tensor = gap_BPP < distance * diagonal_BV[:, :2].amax(1)[:, None, None]
    return near


def likeness(one_BPD: Tensor, other_BPD: Tensor, pairs_BPP: Tensor) -> Tensor:
    """The mean cosine over pairs of a row [B]; 0 for a row without any."""
    cosine_BPP = F.normalize(one_BPD, dim=-1) @ F.normalize(other_BPD, dim=-1).transpose(1, 2)
    found: Tensor = torch.where(pairs_BPP, cosine_BPP, 0.0).sum((1, 2)) / pairs_BPP.sum((1, 2)).clamp(min=1)
    return found
