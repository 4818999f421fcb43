"""Tokens that a tower does not see: a learned vector stands in their place, or they are left out.

    embedding of a hidden token = mask token + position          (BEiT, Bao et al. 2021; BERT's [MASK])

The vector takes the place of what a patch or a word is embedded as; the tower stays as it is.

B images or texts on this rank, P patches, N of them, T with class tokens, L tokens of a text,
W tower width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from open_clip.timm_model import TimmModel
from torch import Tensor, nn


class Hidden(NamedTuple):
    """Which tokens are hidden, and what the tower sees in place of them."""

    where: Tensor  #: bool [B, P] or [B, L]
    mask_W: Tensor


def masked(values: Tensor, hidden: Hidden | None) -> Tensor:
    """Embeddings [*, W] with the mask token where [*] is hidden."""
    if hidden is None:
        return values
    return torch.where(hidden.where.reshape(*values.shape[:-1], 1), hidden.mask_W.to(values.dtype), values)


@contextmanager
def patches_hidden(visual: Any, hidden: Hidden | None) -> Iterator[None]:
    """While it lasts, an image tower sees the mask token in place of hidden patches."""
    if hidden is None:
        yield
        return
    convolution = not isinstance(visual, TimmModel)

    def after(_module: nn.Module, _given: object, found: Tensor) -> Tensor:
        # open_clip's gives [B, W, rows, columns]; timm's [B, P, W] or [B, rows, columns, W].
        return masked(found.permute(0, 2, 3, 1), hidden).permute(0, 3, 1, 2) if convolution else masked(found, hidden)

    handle = (visual.conv1 if convolution else visual.trunk.patch_embed).register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def patches_kept(visual: Any, kept_BN: Tensor) -> Iterator[None]:
    """While it lasts, an image tower has only N of the patches of each image.  kept: their numbers, int64 [B, N]."""
    timm = isinstance(visual, TimmModel)
    before = visual.trunk.num_prefix_tokens if timm else 1
    first_BN = torch.arange(before, device=kept_BN.device).expand(len(kept_BN), before)
    index_BN = torch.cat([first_BN, kept_BN + before], 1)

    def after(_module: nn.Module, _given: object, found_BTW: Tensor) -> Tensor:
        return found_BTW.gather(1, index_BN[..., None].expand(-1, -1, found_BTW.shape[2]))

    # What FLIP's random dropout is a part of, after positions are added.
    handle = (visual.trunk.patch_drop if timm else visual.patch_dropout).register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def words_hidden(embedding: nn.Module, hidden: Hidden | None) -> Iterator[None]:
    """While it lasts, the embedding of a text tower gives the mask token for hidden words."""
    if hidden is None:
        yield
        return
    handle = embedding.register_forward_hook(lambda _module, _given, found: masked(found, hidden))
    try:
        yield
    finally:
        handle.remove()
