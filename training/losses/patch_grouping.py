"""Patches of an image gathered for each of its texts, and a logit scale of their own.

B rows of this rank, K text slots, P patches, D embedding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from torch import Tensor, nn

from training.model import Own

#: Keeps a text that is equally near to all patches from a division by 0; DreamLIP's.
_EPSILON = 1e-10


class LocalScale(nn.Module):
    """A logit scale for patches and texts, which begins at 1/0.07 as CLIP's."""

    def __init__(self) -> None:
        super().__init__()
        self.local_scale = nn.Parameter(torch.full((1,), math.log(1 / 0.07)))

    def forward(self, image_BD: Tensor, text_BKD: Tensor, asked: Mapping[str, Tensor] | None = None) -> Own:
        """`scale`, whatever the rows."""
        return Own({}, {"scale": self.local_scale.exp().sum()})


def grouped_patches(
    patches_BPD: Tensor, text_BKD: Tensor, normalise: Literal["minmax", "softmax"], threshold: float
) -> Tensor:
    """For each text, the mean of the patches weighted by how near they are to it, on the sphere [B, K, D].

    Weights below the threshold (negative: 1/P) are 0; where all are, so is the vector.
    """
    near_BKP = torch.einsum("bkd,bpd->bkp", text_BKD, patches_BPD)
    if normalise == "minmax":
        low, high = near_BKP.amin(-1, keepdim=True), near_BKP.amax(-1, keepdim=True)
        near_BKP = (near_BKP - low) / (high - low + _EPSILON)
    else:
        near_BKP = near_BKP.softmax(-1)
    least = 1 / patches_BPD.shape[1] if threshold < 0 else threshold
    near_BKP = torch.where(near_BKP < least, 0.0, near_BKP)
    weight_BKP = near_BKP / near_BKP.sum(-1, keepdim=True).clamp(min=_EPSILON)
    return F.normalize(torch.einsum("bkp,bpd->bkd", weight_BKP, patches_BPD), dim=-1)
