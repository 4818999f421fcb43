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


def side_of(name: str, patches: int) -> int:
    """Patches on a side of a square grid.  Raises RecipeError for a number that makes none."""
    side = math.isqrt(patches)
    if side * side != patches or not patches:
        raise RecipeError(
            f"{name} must be the patches of a square grid", value=f"{patches} tokens", fix="leave out other tokens"
        )
    return side


def pooled_grid(patches_BPD: Tensor) -> Tensor:
    """Patches of a square grid, in rows, averaged over cells of ⌊√side⌋ patches a side -> [B, A, D].

    What does not fill a cell at the right and at the bottom is left out: 16 patches a side make 4 cells, 14 make 4 and
    leave 2, 7 make 3 and leave 1.  Raises RecipeError for a grid that is not square.
    """
    rows, count, width = patches_BPD.shape
    side = side_of("image_tokens", count)
    grid = patches_BPD.transpose(1, 2).reshape(rows, width, side, side)
    return F.avg_pool2d(grid, math.isqrt(side)).flatten(2).transpose(1, 2)
