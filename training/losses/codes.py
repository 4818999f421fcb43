"""Tokens as sparse mixtures of codes that images and texts share (FDT).

B rows, T tokens of a row, C codes, d width of a code.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from training.losses.tiles import wide
from training.precision import full_precision


def sparsemax(values: Tensor) -> Tensor:
    """The nearest point of the simplex by the last dimension, zero at most places (Martins and Astudillo 2016)."""
    ordered, _ = values.sort(dim=-1, descending=True)
    rank = torch.arange(1, values.shape[-1] + 1, device=values.device, dtype=values.dtype)
    above = ordered.cumsum(-1) - 1
    support = (rank * ordered > above).sum(-1, keepdim=True)
    threshold = above.gather(-1, support - 1) / support
    return (values - threshold).clamp(min=0)


def code_features(
    token_BTd: Tensor, exists_BT: Tensor, code_Cd: Tensor, temperature: float, *, at_once: int, pads_are_zero: bool
) -> Tensor:
    """Unit vectors [B, d]: codes weighted by the sparsemax of each code's best product with a token.

    exists_BT: bool; a row without any gives zeros.  at_once: products of tokens and codes that are held at a time.
    pads_are_zero: what a missing token is to every code, instead of nothing (the released code).
    """
    with full_precision(token_BTd.device):
        token_BTd = torch.where(exists_BT[..., None], wide(token_BTd), 0.0)
        code_Cd = wide(code_Cd)
        has_any = exists_BT.any(1, keepdim=True)
        unseen = torch.zeros_like(exists_BT) if pads_are_zero else ~exists_BT & has_any
        rows = max(1, at_once // max(1, exists_BT.shape[1] * len(code_Cd)))
        parts = [
            checkpoint(
                _best, token_BTd[at : at + rows], unseen[at : at + rows], code_Cd, temperature, use_reentrant=False
            )
            for at in range(0, len(token_BTd), rows)
        ]
        found = F.normalize(sparsemax(torch.cat(parts)) @ code_Cd, dim=-1)
        return torch.where(has_any, found, 0.0)


def _best(token_rTd: Tensor, unseen_rT: Tensor, code_Cd: Tensor, temperature: float) -> Tensor:
    product_rTC = token_rTd @ code_Cd.T / (code_Cd.shape[1] ** 0.5 * temperature)
    best: Tensor = product_rTC.masked_fill(unseen_rT[..., None], -torch.inf).amax(1)
    return best
