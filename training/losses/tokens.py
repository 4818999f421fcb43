"""Image patches and text tokens: what a loss on them must be given, and patches pooled to a smaller grid.

B rows of this rank, P patches, A cells of the smaller grid, D embedding.
"""

from __future__ import annotations

import math

import torch.nn.functional as F  # noqa: N812  torch's own name for it
from torch import Tensor

from pairmill.errors import RecipeError


def check_width(name: str, tokens: Tensor, width: int) -> None:
    """Raise RecipeError unless tokens are as wide as the embeddings that they are compared with."""
    if tokens.shape[-1] != width:
        raise RecipeError(
            f"{name} must be as wide as the embeddings",
            value=f"{tokens.shape[-1]}; embeddings: {width}",
            fix="project tokens to the width of the embeddings",
        )


def pooled_grid(patches_BPD: Tensor) -> Tensor:
    """Patches of a square grid, in rows, averaged over cells of about ⌊√side⌋ patches a side -> [B, A, D].

    A side has ⌊side / ⌊√side⌋⌋ cells, which cover the whole picture: 16 patches make 4 cells, 14 make 4, 7 make 3.
    Raises RecipeError for a grid that is not square.
    """
    rows, count, width = patches_BPD.shape
    side = math.isqrt(count)
    if side * side != count or not count:
        raise RecipeError(
            "image_tokens must be the patches of a square grid", value=f"{count} tokens", fix="leave out other tokens"
        )
    grid = patches_BPD.transpose(1, 2).reshape(rows, width, side, side)
    return F.adaptive_avg_pool2d(grid, side // math.isqrt(side)).flatten(2).transpose(1, 2)
