"""Image towers that take images of other sizes than their own, for a curriculum of sizes.

What a tower knows of places is learnt for the grid of its own size.  For another grid it is interpolated anew in every
forward pass, as open_clip does once when it loads a checkpoint (bicubic, antialiased; the class token's place stays).
So gradients reach the tower's own places, and a checkpoint is that of a plain tower.  Interpolation is linear in the
places: a constant matrix here.

P places of the tower's own grid, Q of another, W width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import timm.models.vision_transformer as timm_vit
import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from open_clip.modified_resnet import AttentionPool2d, ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from timm.layers import Format, PatchEmbed
from torch import Tensor, nn

from pairmill.errors import RecipeError

#: Pixels of a side for each place of a ResNet's last grid.
_RESNET_STRIDE = 32

Grid = tuple[int, int]


def take_sizes(model: nn.Module, sizes: Sequence[int]) -> None:
    """Have the image tower of an open_clip model take square images of these sides too, in pixels.

    Nothing changes for images of its own size.  Raises RecipeError for a tower that cannot, and for a size that its
    patches do not divide.
    """
    visual: Any = model.visual
    stride = _stride(visual)
    if stride is None:
        trunk = f"timm's {type(visual.trunk).__name__}" if isinstance(visual, TimmModel) else type(visual).__name__
        raise RecipeError(
            "with curriculum.image_size, the image tower of model.architecture must be a ViT or a ResNet",
            value=f"its image tower is {trunk}",
            fix="choose a ViT, such as ViT-B-32, or leave curriculum.image_size out",
        )
    for size in sizes:
        if size % stride:
            raise RecipeError(
                "each size of curriculum.image_size must be a multiple of the patches of the image tower",
                value=f"{size} pixels, patches of {stride}",
                fix=f"use {max(1, size // stride) * stride}",
            )
    if isinstance(visual, TimmModel):
        trunk = visual.trunk
        trunk.dynamic_img_size, trunk.patch_embed.strict_img_size = True, False
        trunk.patch_embed.flatten, trunk.patch_embed.output_fmt = False, Format.NHWC
    elif isinstance(visual, ModifiedResNet):
        visual.attnpool.__class__ = _AnyPool
    else:
        visual.__class__ = _AnyViT


def _stride(visual: Any) -> int | None:
    """Pixels of a side for each place of the tower's grid; None for a tower that takes one size."""
    if isinstance(visual, VisionTransformer):
        return int(visual.patch_size[0])
    if isinstance(visual, ModifiedResNet):
        return _RESNET_STRIDE
    trunk: Any = getattr(visual, "trunk", None)
    plain = type(trunk) is timm_vit.VisionTransformer and type(trunk.patch_embed) is PatchEmbed
    return int(trunk.patch_embed.patch_size[0]) if plain and trunk.pos_embed is not None else None


class _AnyViT(VisionTransformer):  # type: ignore[misc]  # open_clip has no types
    def _embeds(self, x: Tensor) -> Tensor:
        grid = x.shape[2] // self.patch_size[0], x.shape[3] // self.patch_size[1]
        with _places_for(self, self.grid_size, grid):
            embedded: Tensor = super()._embeds(x)
            return embedded


class _AnyPool(AttentionPool2d):  # type: ignore[misc]  # as above
    def forward(self, x: Tensor) -> Tensor:
        side = math.isqrt(len(self.positional_embedding) - 1)
        with _places_for(self, (side, side), (x.shape[2], x.shape[3])):
            pooled: Tensor = super().forward(x)
            return pooled


@contextmanager
def _places_for(module: Any, own: Grid, grid: Grid) -> Iterator[None]:
    """While it is open, the module's position embedding is that of another grid."""
    if own == grid:
        yield
        return
    # A tensor among an instance's own attributes is found before the parameter of the name.
    module.__dict__["positional_embedding"] = interpolated(module.positional_embedding, own, grid)
    try:
        yield
    finally:
        del module.__dict__["positional_embedding"]


def interpolated(places: Tensor, own: Grid, grid: Grid) -> Tensor:
    """The position embedding [1 + P, W] of a class token and a grid, for another grid: [1 + Q, W]."""
    with torch.autocast(places.device.type, enabled=False):
        matrix = _matrix(own, grid).to(places.device)
        return torch.cat([places[:1], (matrix @ places[1:].float()).to(places.dtype)])


@lru_cache(maxsize=16)
def _matrix(own: Grid, grid: Grid) -> Tensor:
    """[Q, P], float32."""
    with torch.inference_mode(False), torch.no_grad():
        each = torch.eye(own[0] * own[1]).view(-1, 1, *own)
        found = F.interpolate(each, size=grid, mode="bicubic", antialias=True, align_corners=False)
        return found.flatten(1).T.contiguous()
