"""Texts that were written to be wrong: which there are, and the cross-entropy against those of the own row.

B rows of this rank, K text slots, N negatives of a row, D embedding.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from torch import Tensor

from training.losses.present import zeroed


def negatives_of(asked: Mapping[str, Tensor], text_mask_BK: Tensor) -> tuple[Tensor, Tensor]:
    """The negatives [B, N, D], zeros where there is none, and which there are, bool [B, N].

    A row without a text has none; without `neg_mask` every other row has all.
    """
    neg_BND = asked["neg_text"]
    there = text_mask_BK.any(1, keepdim=True).expand(neg_BND.shape[:2])
    mask_BN = asked["neg_mask"] & there if "neg_mask" in asked else there
    return zeroed(neg_BND, mask_BN), mask_BN


def among_candidates(positive: Tensor, negatives: Tensor, there: Tensor) -> Tensor:
    """-log(exp p / (exp p + Σ_n exp l_n)) of logits p [*S] and l [*S, N], over the negatives that are there -> [*S].

    0, without gradient, where there is none.
    """
    any_there = there.any(-1)
    out = ~there & any_there[..., None]
    lse = negatives.masked_fill(out, -torch.inf).logsumexp(-1)
    return torch.where(any_there, F.softplus(lse - positive), 0.0)
