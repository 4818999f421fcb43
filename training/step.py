"""One step: features, the loss of the whole batch, gradients, the optimiser's update, and the objective's state.

With micro-batches the loss is still that of the whole batch (GradCache, Gao et al. 2021): encode every micro-batch
without keeping activations; the loss of all features gives the gradient at each feature; encode again, with the same
random numbers, and carry those gradients into the towers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pairmill.errors import RecipeError
from training.engine import update
from training.gather import Exchange
from training.losses.loss_inputs import LossOutput
from training.model import Features, Rows
from training.objectives.declaration import Objective
from training.teacher import Taught, Teachers
from training.token_hiding import drawn
from training.token_mask import seen


class StepResult(NamedTuple):
    """What a step reports, of this rank; the mean over ranks is of the batch."""

    loss: Tensor  #: scalar
    parts: Mapping[str, Tensor]  #: scalars that add up to it
    scale: Tensor  #: scalar, before the update; the same on all ranks
    gradient_norm: float  #: `engine.update`; the same on all ranks
    rates: Mapping[str, Tensor] = {}  #: `LossOutput.rates`


def train_step(
    engine: Any,
    rows: Rows,
    objective: Objective,
    exchange: Exchange,
    *,
    accumulate: int,
    seed: int,
    teacher: Teachers | None = None,
) -> StepResult:
    """Forward, backward and update on a DeepSpeed engine whose gradient_accumulation_steps is `accumulate`.

    seed: of dropout and the like in this step on this rank; what a step draws depends on nothing that came before.
    teacher: for an objective that needs any, and for `train.patch_keeping`.
    """
    if "masked" in objective.needs:
        rows = rows._replace(draw_B=drawn(objective.setup.seed, objective.when.step, rows.sample_id_B))
    parts = _micro_batches(rows, accumulate)
    if teacher is not None and teacher.keeping is not None:
        rows = teacher.keep(rows, parts, seed=objective.setup.seed, step=objective.when.step)
        parts = _micro_batches(rows, accumulate)
    taught = teacher(parts) if teacher is not None else Taught()
    if objective.token_mask is not None:
        rows = seen(rows, taught.of_tokens(), objective, pad_id=engine.module.pad_id)
        parts = _micro_batches(rows, accumulate)
    with engine.module.kernels(rows.images_BHWC.device):
        if accumulate == 1:
            features, output, norm = _plain_step(engine, rows, objective, exchange, seed, taught)
        else:
            features, output, norm = _cached_step(engine, parts, rows, objective, exchange, seed, taught)
    _share_buffers(engine.module)
    if teacher is not None:
        teacher.update()
    with torch.no_grad():
        objective.after_step(features.map(Tensor.detach), rows, exchange)
    objective.check_state()
    return StepResult(output.total.detach(), output.parts, features.scale.detach(), norm, output.rates)


@torch.no_grad()
def _share_buffers(module: nn.Module) -> None:
    """Give all ranks the first one's buffers, such as running statistics: a checkpoint holds them once.

    A collective call.  It sends those that a state dict has, all of one type in one message.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    of_type: dict[torch.dtype, list[Tensor]] = {}
    for one in module.modules():
        for name, buffer in one._buffers.items():
            if buffer is not None and name not in one._non_persistent_buffers_set:
                of_type.setdefault(buffer.dtype, []).append(buffer)
    for kind, buffers in of_type.items():
        together = torch.cat([buffer.flatten() for buffer in buffers])
        dist.broadcast(together.view(torch.uint8) if kind == torch.bool else together, src=0)
        for buffer, first in zip(buffers, torch.split(together, [b.numel() for b in buffers]), strict=True):
            buffer.copy_(first.view_as(buffer))


def _micro_batches(rows: Rows, accumulate: int) -> list[Rows]:
    size = len(rows.images_BHWC)
    if size % accumulate:
        raise RecipeError(
            "train.accumulate must divide the rows of every worker",
            value=f"{accumulate} of {size}",
            fix="choose a divisor",
        )
    return [rows.part(slice(at, at + size // accumulate)) for at in range(0, size, size // accumulate)]


def _plain_step(
    engine: Any, rows: Rows, objective: Objective, exchange: Exchange, seed: int, taught: Taught
) -> tuple[Features, LossOutput, float]:
    features = taught.beside(_encode(engine, rows, seed))
    output = objective(features, rows, exchange)
    engine.backward(output.total)
    return features, output, update(engine)


def _cached_step(
    engine: Any,
    parts: Sequence[Rows],
    rows: Rows,
    objective: Objective,
    exchange: Exchange,
    seed: int,
    taught: Taught,
) -> tuple[Features, LossOutput, float]:
    seeds = [seed + number for number in range(len(parts))]
    with torch.no_grad():
        first = [_encode(engine, part, part_seed) for part, part_seed in zip(parts, seeds, strict=True)]
    leaves = taught.beside(Features.joined(first).map(_leaf))
    output = objective(leaves, rows, exchange)
    torch.autograd.backward(output.total)
    size, norm = len(parts[0].images_BHWC), 0.0
    for number, (part, part_seed) in enumerate(zip(parts, seeds, strict=True)):
        features = _encode(engine, part, part_seed)
        here = slice(number * size, (number + 1) * size)
        carried = [
            (value * _gradient(leaf)[here]).sum()
            for value, leaf in zip(features.by_row(), leaves.by_row(), strict=True)
            if leaf.requires_grad
        ]
        if number == 0:
            carried += [
                (value * _gradient(leaf)).sum()
                for value, leaf in zip(features.common(), leaves.common(), strict=True)
                if leaf.requires_grad
            ]
        # DeepSpeed divides by the number of micro-batches, as if each had a loss of its own.
        engine.backward(torch.stack(carried).sum() * len(parts))
        norm = update(engine)
    return leaves, output, norm


def _encode(module: Any, part: Rows, seed: int) -> Features:
    torch.manual_seed(seed)
    features: Features = module(part)
    return features


def _leaf(value: Tensor) -> Tensor:
    return value.requires_grad_() if value.is_floating_point() else value


def _gradient(leaf: Tensor) -> Tensor:
    # A leaf that the loss does not use (the scale of a batch without texts) has none.
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
