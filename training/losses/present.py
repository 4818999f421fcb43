"""What of a batch is there: rows with a text, and zeros in place of what is missing, which may hold anything.

B rows of this rank, K text slots, D embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from training.gather import Exchange
from training.losses.tiles import wide


def zeroed(values: Tensor, there: Tensor) -> Tensor:
    """`values` [*S, …] in the precision of the losses, with zeros where `there` [*S] is false; no NaN survives."""
    wider = wide(values)
    return torch.where(there.reshape(*there.shape, *([1] * (values.ndim - there.ndim))), wider, wider.new_zeros(()))


def first_text(text_BKD: Tensor, mask_BK: Tensor) -> Tensor:
    """The first text that each row has [B, D]; zeros for a row without any."""
    slot = mask_BK.int().argmax(1)
    return zeroed(text_BKD[torch.arange(len(slot), device=slot.device), slot], mask_BK.any(1))


def batch_mean(values: Tensor, counted: Tensor, exchange: Exchange) -> Tensor:
    """This rank's share of the mean of `values` over the places of all ranks that are `counted` [same shape].

    The mean over ranks of the shares is the mean of the whole batch (rule R1); 0 where nothing counts.
    """
    count = exchange.total(counted.sum().double()).clamp(min=1)
    return exchange.world * torch.where(counted, values, values.new_zeros(())).sum() / count.to(values.dtype)


def row_numbers(rows: int, exchange: Exchange, device: torch.device) -> Tensor:
    """Numbers of this rank's rows over all ranks, int64 [B]."""
    return torch.arange(rows, device=device) + exchange.rank * rows
