"""Losses of rows with several views each: an image and its texts.

B rows of this rank, V views: the image and K text slots, D embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from training.gather import Exchange
from training.losses.pairs import Batch, Members, joined, lse_over
from training.losses.present import batch_mean
from training.precision import full_precision


def mv_dhel(batch: Batch, temperature: float, *, exchange: Exchange, tile: tuple[int, int]) -> Tensor:
    """`training.objectives.mv_dhel`, this rank's part of the mean over rows.  A collective call."""
    scale = batch.image.value.new_tensor(1 / temperature)
    energy = torch.zeros_like(scale).expand(len(batch.rows))
    for view in _views(batch):
        lse, columns = lse_over(view, view, scale, own=False, exchange=exchange, tile=tile)
        energy = energy + torch.where(columns > 0, lse, 0.0)
    return batch_mean(energy - _alignment(batch, scale, ordered=False), batch.rows, exchange)


def mv_infonce(
    batch: Batch, temperature: float, *, within_views: bool, exchange: Exchange, tile: tuple[int, int]
) -> Tensor:
    """`training.objectives.mv_infonce`, this rank's part of the mean over rows.  A collective call.

    within_views: vectors of the same view are negatives too.
    """
    scale = batch.image.value.new_tensor(1 / temperature)
    views = _views(batch)
    found = []
    for number, view in enumerate(views):
        rest = joined(tuple(one for other, one in enumerate(views) if other != number))
        found.append(lse_over(rest, view, scale, own=True, exchange=exchange, tile=tile).lse)
        if within_views:
            found.append(lse_over(view, view, scale, own=False, exchange=exchange, tile=tile).lse)
    # A row without a text has no view at all, and a log of 0 no gradient.
    terms = torch.cat([lse.view(len(batch.rows), -1) for lse in found], dim=1)
    energy = torch.where(batch.rows[:, None], terms, 0.0).logsumexp(1)
    return batch_mean(energy - _alignment(batch, scale, ordered=True), batch.rows, exchange)


def _views(batch: Batch) -> tuple[Members, ...]:
    return (batch.image, *batch.texts)


def _alignment(batch: Batch, scale: Tensor, *, ordered: bool) -> Tensor:
    """log Σ_{l<m} exp(scale · u_il·u_im) [B] over the views that a row has, or Σ_{l≠m}; 0 where it has none."""
    views = _views(batch)
    value_BVD = torch.stack([view.value for view in views], dim=1)
    there_BV = torch.stack([view.valid for view in views], dim=1)
    with full_precision(value_BVD.device):
        logits = scale * torch.einsum("bld,bmd->blm", value_BVD, value_BVD)
    pairs = there_BV[:, :, None] & there_BV[:, None, :] & ~torch.eye(len(views), device=logits.device).bool()
    if not ordered:
        pairs = pairs.triu()
    logits = torch.where(pairs, logits, -torch.inf).flatten(1)
    return torch.where(batch.rows[:, None], logits, 0.0).logsumexp(1)
