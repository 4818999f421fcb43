"""What is alike at all candidates needs no pair: their mean logit is that with their mean embedding.

B rows of this rank, k text slots of a contrast, D embedding.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from training.gather import Exchange


class Candidates(NamedTuple):
    """Means over the candidates of each row, zeros where it has none, and how many they are."""

    text_BD: Tensor
    texts_B: Tensor
    image_BD: Tensor
    images_B: Tensor


def candidates(
    image_BD: Tensor, text_BkD: Tensor, mask_Bk: Tensor, group_B: Tensor, *, own: bool, exchange: Exchange
) -> Candidates:
    """The texts that a row is contrasted with, and the images that its texts are.

    image_BD, text_BkD: finite everywhere; what mask_Bk leaves out does not count.  Those of all peers, but for other
    rows of the row's group, and for the row itself unless `own`.
    A collective call.  O(B·D) memory, and O(D) for each group with more than one row of the peers.
    """
    mask = mask_Bk.to(image_BD.dtype)
    there = mask.amax(1, keepdim=True)
    at, groups = _places(group_B, exchange)

    def left(each: Tensor) -> Tensor:
        """The sum over all rows of the peers, less that over the rows that are no candidates, [B, …]."""
        found = exchange.summed(each.sum(0)).expand_as(each) - (0.0 if own else each)
        if not groups:
            return found
        grouped = (at >= 0)[:, None]
        mine = torch.where(grouped, each, 0.0)
        sums = exchange.summed(each.new_zeros(groups, each.shape[1]).index_add(0, at.clamp(min=0), mine))
        return found - torch.where(grouped, sums[at.clamp(min=0)] - mine, 0.0)

    count = left(torch.cat([mask.sum(1, keepdim=True), there], dim=1)).round()

    def mean(each: Tensor, number: Tensor) -> Tensor:
        # What is left of a sum without any summand is rounding.
        return torch.where(number > 0, left(each), 0.0) / number.clamp(min=1)

    texts = mean(torch.einsum("bk,bkd->bd", mask, text_BkD), count[:, :1])
    return Candidates(texts, count[:, 0], mean(there * image_BD, count[:, 1:]), count[:, 1])


def _places(group_B: Tensor, exchange: Exchange) -> tuple[Tensor, int]:
    """Each row's place among the groups of more than one row [B], -1 if it is in none; how many groups these are."""
    everyone = exchange.contrasted(group_B)
    groups, members = torch.unique(everyone[everyone >= 0], return_counts=True)
    groups = groups[members > 1]
    if not len(groups):
        return torch.full_like(group_B, -1), 0
    at = torch.searchsorted(groups, group_B).clamp_(max=len(groups) - 1)
    return torch.where(groups[at] == group_B, at, -1), len(groups)
