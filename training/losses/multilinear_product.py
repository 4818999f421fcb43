"""The product of three vectors, <a, b, c> = Σ_d a_d b_d c_d, as a similarity (Symile).

B rows of this rank, G of its peers, N of these that have all three vectors, D embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from training.gather import Exchange
from training.losses.tiles import wide
from training.precision import full_precision


def multilinear_loss(
    vectors_B3D: Tensor,
    valid_B: Tensor,
    scale: Tensor,
    group_B: Tensor,
    sample_id_B: Tensor,
    exchange: Exchange,
    *,
    draw: tuple[int, int] | None,
    tile: tuple[int, int],
    keeps_own: bool = False,
) -> Tensor:
    """Mean over the three anchors of the cross-entropy of an anchor's own other two against others'.

    draw: (seed, step): the others of each anchor are one permutation of the rows each; None: all N² pairs of rows.
    Negatives of which both are the anchor's own row's, or of rows of its group, are left out.
    keeps_own: those of which both are the own row's stay where they were drawn.
    """
    with full_precision(vectors_B3D.device):
        vectors_B3D = torch.where(valid_B[:, None, None], wide(vectors_B3D), 0.0)
        all_G3D = exchange.contrasted(vectors_B3D)
        valid_G, group_G, id_G = (exchange.contrasted(one) for one in (valid_B.long(), group_B, sample_id_B))
        # By id, so that what is drawn depends neither on the order of the rows nor on the rank that has them.
        order_N = valid_G.nonzero()[:, 0]
        order_N = order_N[id_G[order_N].argsort(stable=True)]
        own_n = valid_B.nonzero()[:, 0]
        place_G = torch.zeros_like(valid_G).scatter_(0, order_N, torch.arange(len(order_N), device=order_N.device))
        at_n = place_G[own_n + exchange.place * len(valid_B)]
        group_N = group_G[order_N]
        near_nN = (group_B[own_n, None] == group_N) & (group_N >= 0)
        near_nN |= at_n[:, None] == torch.arange(len(group_N), device=group_N.device)
        losses = []
        for anchor in range(3):
            others = [at for at in range(3) if at != anchor]
            x_nD = vectors_B3D[own_n, anchor]
            first_ND, second_ND = (all_G3D[order_N, at] for at in others)
            if draw is None:
                losses.append(_against_all(x_nD, first_ND, second_ND, at_n, near_nN, scale, tile))
            else:
                drawn = [_permutation((*draw, anchor, at), order_N) for at in others]
                losses.append(_against_drawn(x_nD, (first_ND, second_ND), drawn, at_n, near_nN, scale, keeps_own))
        # The sum is of no row too, so that a rank without any takes part in the backward pass.
        total = torch.stack(losses).sum() / 3 + 0.0 * (all_G3D.sum() + scale)
        return exchange.world * total / exchange.total(valid_B.sum().double()).clamp(min=1.0).to(total.dtype)


def _permutation(seed: tuple[int, ...], of: Tensor) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).permutation(len(of))).to(of.device)


def _against_drawn(
    x_nD: Tensor,
    others: Sequence[Tensor],
    drawn: Sequence[Tensor],
    at_n: Tensor,
    near_nN: Tensor,
    scale: Tensor,
    keeps_own: bool,
) -> Tensor:
    """Sum over anchors of -log softmax at the own pair, among N products."""
    logits = x_nD @ (others[0][drawn[0]] * others[1][drawn[1]]).T
    own = (x_nD * others[0][at_n] * others[1][at_n]).sum(1)
    diagonal = torch.zeros_like(near_nN).scatter_(1, at_n[:, None], True)
    logits = torch.where(diagonal, own[:, None], logits)
    out = near_nN[:, drawn[0]] & near_nN[:, drawn[1]] & ~diagonal
    if keeps_own:
        out &= ~(diagonal[:, drawn[0]] & diagonal[:, drawn[1]])
    return ((scale * logits).masked_fill(out, -torch.inf).logsumexp(1) - scale * own).sum()


def _against_all(
    x_nD: Tensor,
    first_ND: Tensor,
    second_ND: Tensor,
    at_n: Tensor,
    near_nN: Tensor,
    scale: Tensor,
    tile: tuple[int, int],
) -> Tensor:
    """As `_against_drawn`, among N² products, some anchors at a time."""

    def part(x_rD: Tensor, first_ND: Tensor, second_ND: Tensor, at_r: Tensor, near_rN: Tensor, scale: Tensor) -> Tensor:
        logits_rNN = scale * (x_rD[:, None] * first_ND) @ second_ND.T
        own = scale * (x_rD * first_ND[at_r] * second_ND[at_r]).sum(1)
        out = near_rN[:, :, None] & near_rN[:, None, :]
        row = torch.arange(len(x_rD), device=x_rD.device)
        out[row, at_r, at_r] = False
        return (logits_rNN.masked_fill(out, -torch.inf).flatten(1).logsumexp(1) - own).sum()

    at_once = max(1, tile[0] * tile[1] // max(1, len(first_ND) ** 2))
    total = x_nD.sum() * 0.0
    for begin in range(0, len(x_nD), at_once):
        here = slice(begin, begin + at_once)
        total = total + checkpoint(
            part, x_nD[here], first_ND, second_ND, at_n[here], near_nN[here], scale, use_reentrant=False
        )
    return total
