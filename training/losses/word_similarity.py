"""Images against the words of texts, and against texts of several levels.

B rows, K text slots, P patches, L tokens, D width of all of them; r images and c columns of a tile; V levels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from training.gather import Exchange
from training.losses.pair_contrast import contrast_pairs
from training.losses.pair_kernel import Logits, Pairs
from training.losses.tiles import wide
from training.precision import full_precision


def word_loss(
    image_BD: Tensor,
    word_BKLD: Tensor,
    exists_BKL: Tensor,
    scale: Tensor,
    group_B: Tensor,
    exchange: Exchange,
    *,
    tile: tuple[int, int],
) -> Tensor:
    """MIL-NCE of s_ic = LSE_w s w_cw·x_i over the words of a text; exists_BKL: bool, the words that count.

    What does not count is zeros, as `cleaned` makes it.
    """
    mask_BK = exists_BKL.any(2)
    with full_precision(image_BD.device):
        return contrast_pairs(
            image_BD,
            word_BKLD,
            mask_BK,
            group_B,
            Pairs(_any_word, (tile[0], max(1, tile[1] // exists_BKL.shape[2])), joint=True),
            exchange,
            extra=exists_BKL,
            shared=(scale,),
            share=(1.0, 0.0),
        )


def _any_word(
    image_rD: Tensor, word_cLD: Tensor, exists_cL: Tensor, shared: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    logits_rcL = shared[0] * torch.einsum("rd,cld->rcl", image_rD, word_cLD)
    # A column without words takes no part: what it has must only be finite.
    absent = (exists_cL <= 0) & (exists_cL > 0).any(1, keepdim=True)
    found = logits_rcL.masked_fill(absent, -torch.inf).logsumexp(2)
    return found, found


def level_loss(
    patch_BPD: Tensor,
    text_BKD: Tensor,
    level_BK: Tensor,
    weight_V: Tensor,
    scale: Tensor,
    group_B: Tensor,
    exchange: Exchange,
    *,
    tile: tuple[int, int],
) -> Tensor:
    """Softmax both ways of the weighted sum over levels; level_BK: int64, -1 for a text that does not count."""
    counts_B = (level_BK >= 0).any(1)
    with full_precision(patch_BPD.device):
        return contrast_pairs(
            torch.where(counts_B[:, None, None], wide(patch_BPD), 0.0),
            torch.where((level_BK >= 0)[..., None], wide(text_BKD), 0.0)[:, None],
            counts_B[:, None],
            group_B,
            Pairs(
                _weighted_levels(len(weight_V)),
                (max(1, tile[0] // patch_BPD.shape[1]), max(1, tile[1] // text_BKD.shape[1])),
            ),
            exchange,
            extra=level_BK[:, None],
            shared=(scale, weight_V),
        )


def _weighted_levels(levels: int) -> Logits:
    def logits(
        patch_rPD: Tensor, text_cKD: Tensor, level_cK: Tensor, shared: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor]:
        cosine = patch_rPD.flatten(0, 1) @ text_cKD.flatten(0, 1).T
        best_rcK = cosine.view(*patch_rPD.shape[:2], *text_cKD.shape[:2]).amax(1)
        member_cKV = (level_cK[..., None] == torch.arange(levels, device=level_cK.device)).to(best_rcK.dtype)
        count_cV = member_cKV.sum(1)
        weight_cV = shared[1] * (count_cV > 0)
        weight_cV = weight_cV / torch.where(count_cV.any(1), weight_cV.sum(1), 1.0)[:, None]
        # The weight of a text: its level's, divided by the texts of the level.
        weight_cK = (member_cKV * (weight_cV / count_cV.clamp(min=1.0))[:, None]).sum(2)
        found = shared[0] * (best_rcK * weight_cK).sum(2)
        return found, found

    return logits
