"""Gradients of several losses at the same embeddings, where they conflict (Wu et al. 2022).

B rows of this rank, D embedding, M losses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from training.losses.loss_inputs import LossOutput
from training.losses.tiles import wide
from training.model import Features


class Harmony(NamedTuple):
    """Several losses as one, whose gradient is the harmonised one."""

    total: Tensor  #: scalar, the sum of the losses
    outputs: list[LossOutput]  #: of each loss, detached
    conflict_B: Tensor  #: bool, two of the losses pull the image in opposite directions
    common_B: Tensor  #: bool, at least two of the losses have a gradient at the image
    dropped_B: Tensor  #: bool, the row gets no gradient


def harmonised(
    features: Features,
    losses: Sequence[Callable[[Features], LossOutput]],
    *,
    project: bool,
    texts: bool,
    least: float | None,
) -> Harmony:
    """The losses of the same rows, and the sum of their gradients once those that conflict are projected.

    losses: equally many on all ranks; each may be a collective call, and so is this one.
    project: whether conflicting gradients are.  texts: whether at text embeddings too, or at images only.
    least: rows with two gradients at the image of a lower cosine are dropped; None: none is.

    Every loss is computed and differentiated before the next, so no more than one of their graphs is held.
    """
    leaves = features.map(lambda value: value.detach().requires_grad_(value.requires_grad))
    inputs = [value for value in (*leaves.by_row(), *leaves.common()) if value.requires_grad]
    outputs: list[LossOutput] = []
    every: list[list[Tensor]] = []
    with torch.enable_grad():
        for loss in losses:
            output = loss(leaves)
            every.append(_gradients(output.total, inputs))
            outputs.append(output._replace(total=output.total.detach()))
    apart = [torch.stack(same) for same in zip(*every, strict=True)]  # of each input, [M, …]
    image_MBD = next(
        (gradient_M for gradient_M, value in zip(apart, inputs, strict=True) if value is leaves.image_BD),
        torch.zeros(len(every), *features.image_BD.shape, device=features.image_BD.device),
    )
    cosine_BMM = cosines(image_MBD)
    common_B = (image_MBD != 0).any(2).sum(0) > 1
    lowest_B = cosine_BMM.flatten(1).amin(1)
    dropped_B = lowest_B < (-torch.inf if least is None else least)
    changed = [leaves.image_BD, *([leaves.text_BKD] if texts else [])] if project else []
    sums = [
        (projected(gradient_M) if any(value is one for one in changed) else gradient_M).sum(0)
        for gradient_M, value in zip(apart, inputs, strict=True)
    ]
    for number in range(sum(value.requires_grad for value in leaves.by_row())):
        dropped = dropped_B.view(-1, *[1] * (sums[number].ndim - 1))
        sums[number] = sums[number].masked_fill(dropped, 0.0)
    given = [value for value in (*features.by_row(), *features.common()) if value.requires_grad]
    total: Tensor = _Carried.apply(torch.stack([output.total for output in outputs]).sum(), sums, *given)
    return Harmony(total, outputs, lowest_B < 0, common_B, dropped_B)


def projected(gradient_MnD: Tensor) -> Tensor:
    """Each gradient without what points against another one (PCGrad, Yu et al. 2020): g_a - (g_a·u_b) u_b.

    u_b: direction of the other's original gradient.  [M, …, D] -> the same; the others are taken in their order.
    """
    unit_MnD = _directions(gradient_MnD)
    found = []
    for own, gradient in enumerate(wide(gradient_MnD)):
        for other, unit in enumerate(unit_MnD):
            if other != own:
                along = (gradient * unit).sum(-1, keepdim=True)
                gradient = gradient - along.clamp(max=0) * unit
        found.append(gradient)
    return torch.stack(found).to(gradient_MnD.dtype)


def cosines(gradient_MBD: Tensor) -> Tensor:
    """Cosines [B, M, M] of each two gradients of a row; 1 of each with itself, and where one is 0: they agree."""
    unit_MBD = _directions(gradient_MBD)
    found = torch.einsum("mbd,nbd->bmn", unit_MBD, unit_MBD)
    there_BM = (unit_MBD != 0).any(2).T
    agree = torch.eye(len(unit_MBD), dtype=torch.bool, device=found.device) | ~(
        there_BM[:, :, None] & there_BM[:, None]
    )
    return found.masked_fill(agree, 1.0)


def _directions(gradient: Tensor) -> Tensor:
    """Unit vectors, or zeros.  By the largest number first: the squares of small gradients are zeros in float32."""
    gradient = wide(gradient)
    largest = gradient.abs().amax(-1, keepdim=True)
    scaled = gradient / torch.where(largest > 0, largest, 1.0)
    length = scaled.norm(dim=-1, keepdim=True)
    return scaled / torch.where(length > 0, length, 1.0)


def _gradients(total: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
    if not total.requires_grad or not inputs:
        return [torch.zeros_like(value) for value in inputs]
    found = torch.autograd.grad(total, inputs, allow_unused=True)
    return [torch.zeros_like(value) if one is None else one.detach() for one, value in zip(found, inputs, strict=True)]


class _Carried(torch.autograd.Function):
    """A value, and the gradients that it has at some tensors."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: Sequence[Tensor], *at: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(upstream[0] * gradient for gradient in ctx.gradients)
