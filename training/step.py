"""One step: features, the loss of the whole batch, gradients, and the optimiser's update.

With micro-batches the contrastive loss is still that of the whole batch (GradCache, Gao et al. 2021): encode every
micro-batch without keeping activations; the loss of all features gives the gradient at each feature; encode again, with
the same random numbers, and carry those gradients into the towers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from training.gather import Exchange
from training.losses.compose import compute_loss
from training.losses.config import LossConfig
from training.losses.inputs import LossInputs
from training.model import Features, Rows


class StepResult(NamedTuple):
    """What a step tells."""

    loss: Tensor  #: scalar, of this rank; the mean over ranks is the loss of the batch
    scale: Tensor  #: scalar, before the update


def train_step(
    engine: Any, rows: Rows, config: LossConfig, exchange: Exchange, *, accumulate: int, seed: int
) -> StepResult:
    """Forward, backward and update on a DeepSpeed engine whose gradient_accumulation_steps is `accumulate`.

    seed: of dropout and the like in this step on this rank; what a step draws depends on nothing that came before.
    """
    if accumulate == 1:
        torch.manual_seed(seed)
        features = engine(rows)
        loss = _loss(features, rows, config, exchange)
        engine.backward(loss)
        engine.step()
        return StepResult(loss.detach(), features.scale.detach())
    return _cached_step(engine, rows, config, exchange, accumulate, seed)


def _cached_step(
    engine: Any, rows: Rows, config: LossConfig, exchange: Exchange, accumulate: int, seed: int
) -> StepResult:
    size = len(rows.images_BHWC)
    parts = [rows.part(slice(at, at + size // accumulate)) for at in range(0, size, size // accumulate)]
    assert len(parts) == accumulate, "accumulate divides the rows of every rank"
    seeds = [seed + number for number in range(accumulate)]
    with torch.no_grad():
        first = [_encode(engine, part, s) for part, s in zip(parts, seeds, strict=True)]
    scale, bias = first[0].scale, first[0].bias
    whole = Features(torch.cat([f.image_BD for f in first]), torch.cat([f.text_BKD for f in first]), scale, bias)
    leaves = whole._replace(
        image_BD=whole.image_BD.requires_grad_(),
        text_BKD=whole.text_BKD.requires_grad_(),
        scale=scale.requires_grad_(),
        bias=None if bias is None else bias.requires_grad_(),
    )
    loss = _loss(leaves, rows, config, exchange)
    torch.autograd.backward(loss)
    for number, (part, part_seed) in enumerate(zip(parts, seeds, strict=True)):
        features = _encode(engine, part, part_seed)
        here = slice(number * size // accumulate, (number + 1) * size // accumulate)
        carried = (features.image_BD * _gradient(leaves.image_BD)[here]).sum()
        carried = carried + (features.text_BKD * _gradient(leaves.text_BKD)[here]).sum()
        if number == 0:
            carried = carried + features.scale * _gradient(leaves.scale)
            if features.bias is not None and leaves.bias is not None:
                carried = carried + features.bias * _gradient(leaves.bias)
        # DeepSpeed divides by the number of micro-batches, as if each had a loss of its own.
        engine.backward(carried * accumulate)
        engine.step()
    return StepResult(loss.detach(), scale.detach())


def _encode(module: Any, part: Rows, seed: int) -> Features:
    torch.manual_seed(seed)
    features: Features = module(part)
    return features


def _loss(features: Features, rows: Rows, config: LossConfig, exchange: Exchange) -> Tensor:
    inputs = LossInputs(
        features.image_BD, features.text_BKD, rows.text_mask_BK, features.scale, features.bias, rows.group_B
    )
    return compute_loss(inputs, config, exchange).total


def _gradient(leaf: Tensor) -> Tensor:
    # A leaf that the loss does not use (the scale of a batch without texts) has none.
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
