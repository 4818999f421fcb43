"""Random numbers that a row has wherever it lies: of its id, the seed and the step, and of nothing else.

A row's numbers are then the same on any number of ranks and any device, and a step can be computed again.

    state = mix(mix(mix(seed) + step) + id),   number e of the row: mix(state + (e + 1) g)

mix and g are those of SplitMix64 (Steele et al. 2014); all sums and products are modulo 2^64.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: g, of 64 bits.
GOLDEN = 0x9E3779B97F4A7C15
#: (bits to shift by, factor) of each round.
_ROUNDS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1))
_WORD = 1 << 64


def normals(seed: int, step: int, id_B: Tensor, width: int) -> Tensor:
    """Standard normal numbers, float64 [B, width], by Box and Muller; id_B: int64 [B]."""
    pairs = _uniforms(seed, step, id_B, 2 * width).view(len(id_B), width, 2)
    return (-2 * pairs[..., 0].log()).sqrt() * (2 * math.pi * pairs[..., 1]).cos()


def _uniforms(seed: int, step: int, id_B: Tensor, count: int) -> Tensor:
    """Numbers between 0 and 1, both left out, float64 [B, count]."""
    start = _mixed_number(_mixed_number(seed) + step)
    state = mixed(id_B + signed(start))
    counter = torch.arange(1, count + 1, device=id_B.device) * signed(GOLDEN)
    bits = mixed(state[:, None] + counter)
    # 53 bits, as many as a float64 holds, in the middle of their step.
    return (_shifted(bits, 11).double() + 0.5) * 2.0**-53


def mixed(state: Tensor) -> Tensor:
    """SplitMix64's mixing of int64 numbers, which wrap around."""
    for shift, factor in _ROUNDS:
        state = (state ^ _shifted(state, shift)) * signed(factor)
    return state


def _mixed_number(state: int) -> int:
    for shift, factor in _ROUNDS:
        state %= _WORD
        state = (state ^ (state >> shift)) * factor % _WORD
    return state


def _shifted(bits: Tensor, by: int) -> Tensor:
    """Without the sign, which torch would draw in."""
    found: Tensor = (bits >> by) & ((1 << (64 - by)) - 1)
    return found


def signed(bits: int) -> int:
    """The lowest 64 bits as an int64."""
    bits %= _WORD
    return bits - _WORD if bits >= _WORD // 2 else bits
