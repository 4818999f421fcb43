"""A mixture of two normal distributions of one dimension, fitted to losses: those of clean pairs and of wrong ones.

N values; a mixture is [2, 3]: weight, mean and variance of each, the smaller mean first; all zeros: none was fitted.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: Steps of expectation maximisation, and the smallest variance, as a share of that of all values.
_STEPS, _FLOOR = 100, 1e-4


def fit_two(values: Tensor) -> Tensor:
    """Maximum likelihood by expectation maximisation, from both halves of the sorted values; float64 on the CPU.

    The same values give the same mixture.  Zeros where there are fewer than two different ones.
    """
    ordered = values.detach().double().cpu().sort().values
    none = torch.zeros(2, 3, dtype=torch.float64)
    if len(ordered) < 2 or ordered[0] == ordered[-1]:
        return none
    whole = ordered.var(correction=0)
    low, high = ordered[: len(ordered) // 2], ordered[len(ordered) // 2 :]
    mixture = torch.stack([torch.stack([whole.new_tensor(0.5), half.mean(), whole]) for half in (low, high)])
    for _ in range(_STEPS):
        share = _log_densities(ordered, mixture).softmax(0)
        count = share.sum(1).clamp(min=1e-12)
        mean = (share @ ordered) / count
        variance = (share * (ordered - mean[:, None]).square()).sum(1) / count
        mixture = torch.stack([count / len(ordered), mean, variance.clamp(min=float(_FLOOR * whole))], 1)
    return mixture[mixture[:, 1].argsort()]


def of_larger(values: Tensor, mixture: Tensor) -> Tensor:
    """The probability that a value is of the component with the larger mean; 0 where none was fitted."""
    fitted = mixture[:, 0].sum() > 0
    safe = torch.where(fitted, mixture, torch.ones_like(mixture)).to(values)
    found: Tensor = _log_densities(values.flatten(), safe).softmax(0)[1].view_as(values)
    return torch.where(fitted, found, 0.0)


def _log_densities(values: Tensor, mixture: Tensor) -> Tensor:
    """log(weight · density) [2, N]."""
    weight, mean, variance = (part[:, None] for part in mixture.unbind(1))
    return weight.log() - 0.5 * ((values - mean).square() / variance + (2 * math.pi * variance).log())
