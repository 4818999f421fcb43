"""The losses that `Improved baselines for vision-language pre-training` (Fini et al. 2023) adds to CLIP's.

They are computed of projections by heads: image_BE [B, E] and text_BKE [B, K, E].

B rows of this rank, K text slots, E projected, M columns of the peers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from torch import Tensor

from training.gather import Exchange
from training.losses.pairs import Members, gathered, logits_against, members, peers_share
from training.losses.present import batch_mean
from training.losses.tiles import wide
from training.model import Rows
from training.precision import full_precision

#: What batch norm adds to a variance.
_EPSILON = 1e-5


def cross_correlation_loss(
    image_BE: Tensor, text_BKE: Tensor, text_mask_BK: Tensor, off_diagonal: float, exchange: Exchange
) -> Tensor:
    """Σ_d (1 − C_dd)² + off_diagonal Σ_{d≠e} C_de², of the peers' whole batch, weighed by its rows.

    C is the correlation matrix [E, E] of the projections over all pairs of an image and one of its texts.
    A collective call.
    """
    valid_B = text_mask_BK.any(1)
    texts_B = text_mask_BK.sum(1)
    image_BE = torch.where(valid_B[:, None], wide(image_BE), 0.0)
    text_BKE = torch.where(text_mask_BK[..., None], wide(text_BKE), 0.0)
    dtype = image_BE.dtype
    number_B1, there_BK1 = texts_B[:, None].to(dtype), text_mask_BK[..., None].to(dtype)
    pairs = exchange.summed(texts_B.sum().to(dtype)).clamp(min=1)

    def mean(both: tuple[Tensor, Tensor]) -> Tensor:
        """Over pairs, of what images [B, E] and texts [B, K, E] have: [2, E]."""
        sums = torch.stack([(both[0] * number_B1).sum(0), (both[1] * there_BK1).sum((0, 1))])
        return exchange.summed(sums) / pairs

    middle = mean((image_BE, text_BKE))
    image_BE, text_BKE = image_BE - middle[0], text_BKE - middle[1]
    spread = (mean((image_BE.square(), text_BKE.square())) + _EPSILON).rsqrt()
    image_BE, text_BE = image_BE * spread[0], (text_BKE * there_BK1).sum(1) * spread[1]
    with full_precision(image_BE.device):
        correlation = exchange.summed(image_BE.T @ text_BE) / pairs
    diagonal = correlation.diagonal()
    apart = correlation.square().sum() - diagonal.square().sum()
    loss = (1 - diagonal).square().sum() + off_diagonal * apart
    return loss * peers_share(valid_B, exchange).to(dtype)


def prediction_loss(
    guess: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor], text_mask_BK: Tensor, exchange: Exchange
) -> Tensor:
    """½ mean_i mean_k [2 − 2 cos(image's guess, text) + 2 − 2 cos(text's guess, image)], this rank's part.

    guess, target: of images [B, E] and of texts [B, K, E]; targets get no gradient.  A collective call.
    """
    valid_B = text_mask_BK.any(1)

    def unit(values: Tensor) -> Tensor:
        there = text_mask_BK if values.ndim == 3 else valid_B
        # Not of zeros, where the direction has no gradient: what is missing is a constant.
        return F.normalize(torch.where(there[..., None], wide(values), 1.0), dim=-1)

    guesses, targets = [unit(one) for one in guess], [unit(one.detach()) for one in target]
    cosines = (guesses[0][:, None] * targets[1]).sum(2) + (guesses[1] * targets[0][:, None]).sum(2)
    each = torch.where(text_mask_BK, 2 - cosines, 0.0).sum(1) / text_mask_BK.sum(1).clamp(min=1)
    return batch_mean(each, valid_B, exchange)


def assignment_loss(
    image_BE: Tensor,
    text_BKE: Tensor,
    scale: Tensor,
    rows: Rows,
    exchange: Exchange,
    *,
    epsilon: float,
    iterations: int,
) -> Tensor:
    """`training.objectives.swav`, this rank's part.  A collective call."""
    mask_BK = rows.text_mask_BK
    text_BKE = torch.where(mask_BK[..., None], wide(text_BKE), 1.0)
    image_BE = torch.where(mask_BK.any(1)[:, None], wide(image_BE), 1.0)
    batch = members(F.normalize(image_BE, dim=-1), F.normalize(text_BKE, dim=-1), rows, exchange)
    slots = mask_BK.shape[1]
    losses, used = [], []
    for slot in range(slots):
        swapped = (slot + 1) % slots
        both = mask_BK[:, slot] & mask_BK[:, swapped]
        image, text, other = (
            one._replace(valid=both) for one in (batch.image, batch.texts[slot], batch.texts[swapped])
        )
        with full_precision(image_BE.device):
            ways = [
                _assigned(image, text, other, scale, exchange, epsilon, iterations, columns_swapped=True),
                _assigned(text, image, other, scale, exchange, epsilon, iterations, columns_swapped=False),
            ]
        losses.append(batch_mean((ways[0] + ways[1]) / 2, both, exchange))
        used.append(exchange.total(both.sum().double()) > 0)
    return torch.stack(losses).sum() / torch.stack(used).sum().clamp(min=1)


def _assigned(
    rows: Members,
    columns: Members,
    other: Members,
    scale: Tensor,
    exchange: Exchange,
    epsilon: float,
    iterations: int,
    *,
    columns_swapped: bool,
) -> Tensor:
    """Cross-entropy [B] of rows over columns with the assignment of the swapped texts, in place of either."""
    one = wide(scale).new_ones(())
    logits = logits_against(rows, gathered(columns, exchange), wide(scale))
    with torch.no_grad():
        swapped = (rows, other) if columns_swapped else (other, columns)
        cosines = logits_against(swapped[0], gathered(swapped[1], exchange), one)
        target = balanced(cosines, rows.valid, epsilon, iterations, exchange)
    return -(target * logits.log_softmax(1).masked_fill(logits.isinf(), 0.0)).sum(1)


def balanced(cosines: Tensor, valid: Tensor, epsilon: float, iterations: int, exchange: Exchange) -> Tensor:
    """exp(cosines / epsilon) [B, M] with rows of sum 1, and columns of nearly equal sums over the peers' rows.

    Sinkhorn and Knopp's iteration: columns first, then rows.  valid: bool [B], rows that count; the others become
    zeros.  A collective call without gradient.
    """
    # A common factor changes nothing, and no cosine exceeds 1.
    shares = torch.where(valid[:, None], ((cosines - 1) / epsilon).exp(), 0.0)
    for _ in range(iterations):
        of_column = exchange.summed(shares.sum(0))
        shares = shares / torch.where(of_column > 0, of_column, 1.0)
        of_row = shares.sum(1, keepdim=True)
        shares = shares / torch.where(of_row > 0, of_row, 1.0)
    return shares
