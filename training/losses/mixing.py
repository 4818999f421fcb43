"""Contrast of mixed embeddings, and soft CLIP: the two phases of M3CoL (Kumar et al. 2024).

B rows of this rank, G rows of its peers, D embedding.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from torch import Tensor

from training.gather import Columns, Exchange
from training.losses.pairs import Members, gathered, logits_against
from training.losses.present import batch_mean
from training.losses.softmax import softmax_value
from training.losses.tiles import Queries
from training.precision import full_precision


class Mix(NamedTuple):
    """What each of G rows is mixed with."""

    partner: Tensor  #: int64 [G], π: index of the other row
    share: Tensor  #: float64 [G], λ: of the row itself


def draw_mix(id_G: Tensor, family_G: Tensor, valid_G: Tensor, beta: float, chance: float, seed: list[int]) -> Mix:
    """Partners by a permutation of the valid rows, and λ ~ Beta(beta, beta) with probability `chance`, else 1.

    Rows are drawn for in the order of their ids: any order and any split over ranks gives a row the same.  A row keeps
    to itself where its partner is of its family.
    """
    random = np.random.default_rng(seed)
    ids, valid = id_G.cpu().numpy(), valid_G.cpu().numpy()
    rows = np.flatnonzero(valid)
    rows = rows[np.argsort(ids[rows], kind="stable")]
    partner, share = np.arange(len(ids)), np.ones(len(ids))
    partner[rows] = rows[random.permutation(len(rows))]
    drawn = random.beta(beta, beta, len(rows))
    share[rows] = np.where(random.random(len(rows)) < chance, drawn, 1.0)
    family = family_G.cpu().numpy()
    partner = np.where(family[partner] == family, np.arange(len(ids)), partner)
    return Mix(torch.from_numpy(partner).to(id_G.device), torch.from_numpy(share).to(id_G.device))


def mixed(one: Members, everyone: Members, mix: Mix, place: slice) -> Members:
    """λ v_i + (1 − λ) v_π(i), of length 1: of the own rows, which are at `place` of all."""
    share = mix.share[place, None].to(one.value.dtype)
    value = share * one.value + (1 - share) * everyone.value[mix.partner[place]]
    # A row that is not valid is zeros, where length has no gradient.
    value = torch.where(one.valid[:, None], value, 1.0)
    return one._replace(value=torch.where(one.valid[:, None], F.normalize(value, dim=-1), 0.0))


def mixed_loss(
    rows: Members,
    columns: Members,
    own_columns: Members,
    mix: Mix,
    place: slice,
    scale: Tensor,
    *,
    overwritten: bool,
    exchange: Exchange,
    tile: tuple[int, int],
) -> Tensor:
    """½ [ −mean_i Σ_j T_ij log softmax_j(s r_i·c_j) − mean_j Σ_i T_ij log softmax_i(s r_i·c_j) ], this rank's part.

    T_ii = λ_i and T_iπ(i) = 1 − λ_i, which add up where π(i) = i, or with `overwritten` leave 1 − λ_i.
    columns: the peers'; own_columns: those of them at `place`.  A collective call.
    """
    dtype = rows.value.dtype
    number = torch.arange(len(mix.share), device=mix.share.device)
    alone = mix.partner == number
    other_G = torch.where(alone, 0.0, 1 - mix.share)
    own_G = torch.where(alone, 1 - mix.share if overwritten else torch.ones_like(mix.share), mix.share)
    own_G, other_G = (torch.where(columns.valid, part, 0.0).to(dtype) for part in (own_G, other_G))
    by_row_B = (own_G + other_G)[place]
    by_column_B = own_G.index_add(0, mix.partner, other_G)[place]
    count = exchange.total(rows.valid.sum().double()).clamp(min=1.0).to(dtype)
    value = softmax_value(
        Queries(rows.value, rows.valid, by_row_B / (2 * count), rows.row, rows.family),
        Columns(own_columns.value, own_columns.valid, by_column_B / (2 * count), own_columns.row, own_columns.family),
        scale,
        exchange=exchange,
        tile=tile,
    )
    targets = own_G[place, None] * own_columns.value + other_G[place, None] * columns.value[mix.partner[place]]
    return value - exchange.world * scale * (rows.value * targets).sum() / count


def soft_clip(image: Members, text: Members, scale: Tensor, exchange: Exchange) -> Tensor:
    """½ Σ over both ways and both targets of mean_i CE(softmax of a modality with itself, the other's logits).

    This rank's part; the targets let gradients through.  O(B·G) memory.  A collective call.
    """
    with full_precision(image.value.device):
        images, texts = gathered(image, exchange), gathered(text, exchange)
        ways = [logits_against(image, texts, scale), logits_against(text, images, scale)]
        targets = [logits_against(text, texts, scale), logits_against(image, images, scale)]
    losses = torch.zeros_like(image.value[:, 0])
    for logits in ways:
        logs = logits.log_softmax(1).masked_fill(logits.isinf(), 0.0)
        for target in targets:
            losses = losses - (target.softmax(1) * logs).sum(1) / 2
    return batch_mean(losses, image.valid, exchange)
