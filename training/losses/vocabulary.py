"""Cross-entropy over a vocabulary, in tiles: logits of all tokens and words would be gigabytes.

T tokens to predict, W width of the states, V words.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from training.losses.tiles import wide

#: Tokens and words of a tile.
TILE = (1024, 4096)


def word_losses(states_TW: Tensor, projection_WV: Tensor, label_T: Tensor, tile: tuple[int, int] = TILE) -> Tensor:
    """-log softmax(states · projection)[label] of each token [T], in nats; label_T: int64, 0 ≤ label < V.

    Products are of the type of the states, sums and logarithms float32 or wider.  Differentiable in states and
    projection; it holds one tile of the logits, in either direction.
    """
    found: Tensor = _WordLosses.apply(states_TW, projection_WV, label_T, tile)
    return found


class _WordLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states_TW: Tensor, projection_WV: Tensor, label_T: Tensor, tile: tuple[int, int]) -> Tensor:
        with torch.autocast(states_TW.device.type, enabled=False):
            largest_T = wide(states_TW).new_full((len(states_TW),), -torch.inf)
            total_T, at_T = torch.zeros_like(largest_T), torch.zeros_like(largest_T)
            for here, words in _tiles(states_TW, projection_WV, tile):
                logits = wide(states_TW[here] @ projection_WV[:, words])
                place, inside = _own(label_T[here], words)
                own = logits.gather(1, place[:, None])[:, 0]
                at_T[here] = torch.where(inside, own, at_T[here])
                higher = torch.maximum(largest_T[here], logits.amax(1))
                total_T[here] = total_T[here] * (largest_T[here] - higher).exp() + (
                    (logits - higher[:, None]).exp_().sum(1)
                )
                largest_T[here] = higher
        lse_T = largest_T + total_T.log()
        ctx.tile = tile
        ctx.save_for_backward(states_TW, projection_WV, label_T, lse_T)
        return lse_T - at_T

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        states_TW, projection_WV, label_T, lse_T = ctx.saved_tensors
        with torch.autocast(states_TW.device.type, enabled=False):
            of_states, of_projection = (torch.zeros_like(wide(values)) for values in (states_TW, projection_WV))
            for here, words in _tiles(states_TW, projection_WV, ctx.tile):
                logits = wide(states_TW[here] @ projection_WV[:, words])
                place, inside = _own(label_T[here], words)
                shares = (logits - lse_T[here, None]).exp_()
                shares.scatter_add_(1, place[:, None], -inside[:, None].to(shares.dtype))
                shares = (shares * upstream[0][here, None]).to(states_TW.dtype)
                of_states[here] += shares @ projection_WV[:, words].T
                of_projection[:, words] += states_TW[here].T @ shares
        return of_states.to(states_TW.dtype), of_projection.to(projection_WV.dtype), None, None


def _tiles(states_TW: Tensor, projection_WV: Tensor, tile: tuple[int, int]) -> Any:
    for begin in range(0, len(states_TW), tile[0]):
        for first in range(0, projection_WV.shape[1], tile[1]):
            yield slice(begin, begin + tile[0]), slice(first, min(first + tile[1], projection_WV.shape[1]))


def _own(label_t: Tensor, words: slice) -> tuple[Tensor, Tensor]:
    """Where each label lies among some words, and whether it does; 0 where it does not."""
    inside = (label_t >= words.start) & (label_t < words.stop)
    return torch.where(inside, label_t - words.start, 0), inside
