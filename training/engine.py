"""The DeepSpeed engine: ZeRO, the optimiser, its update; and its whole state as plain tensors by parameter name.

DeepSpeed's own checkpoints are cut by rank and stage.  Ours hold each parameter's weight and Adam moments whole, under
its name, so a run resumes with any number of workers and any ZeRO stage, and an export needs no consolidation.
Parameters of the model have open_clip's names; those of the objective's heads, of corner tokens and of mask tokens
have theirs, after `objective.`, `corners.` and `mask_tokens.`.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pairmill.errors import IntegrityError
from training.model import LOSS_PARAMETERS, DualEncoder
from training.parameter_groups import decays, parameter_groups
from training.recipe import TrainRecipe

#: Of AdamW, in the names of both torch's and DeepSpeed's implementations.
MOMENTS = ("exp_avg", "exp_avg_sq")

#: What the names of the objective's own parameters begin with, those of corner tokens, and those of mask tokens.
_OWN, _CORNERS, _MASKS = "objective.", "corners.", "mask_tokens."

#: Gradients of at least so many elements are exchanged one by one, in place; smaller ones are packed together.
_BY_ITSELF = 100_000


def start_engine(module: DualEncoder, recipe: TrainRecipe, *, rows_per_worker: int) -> Any:
    """A DeepSpeed engine around `module`; needs an initialised process group where there are several workers."""
    import deepspeed  # at import it probes accelerators and starts helpers: only where a worker trains

    # Its all-reduce through shared memory serves inference only, and would be compiled (for a minute or two) by the
    # first run on a machine without GPUs.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    stage, optim = recipe.deepspeed.stage, recipe.optim
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": max(1, rows_per_worker // recipe.train.accumulate),
        "gradient_accumulation_steps": recipe.train.accumulate,
        "zero_optimization": {"stage": stage, "stage3_gather_16bit_weights_on_model_save": True},
        "gradient_clipping": optim.clip_norm or 0.0,
        "zero_force_ds_cpu_optimizer": False,
        "wall_clock_breakdown": False,
        "steps_per_print": 10**12,
    }
    if recipe.deepspeed.offload:
        config["zero_optimization"]["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if recipe.train.precision == "fp16":
        config["fp16"] = {"enabled": True}
    groups = [{key: value for key, value in group.items() if key != "names"} for group in _groups(module, recipe)]
    optimizer = torch.optim.AdamW(groups, lr=optim.lr, betas=(optim.beta1, optim.beta2), eps=optim.eps, fused=True)
    with _without_compiler():
        engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=config, dist_init_required=False)
    if stage:
        _make_moments(engine.optimizer, stage)
    else:
        engine._reduce_non_expert_gradients = _mean_over_ranks
    return engine


def _groups(module: DualEncoder, recipe: TrainRecipe) -> list[dict[str, Any]]:
    """The model's groups, with the other parameters at the full learning rate in those that they belong to."""
    weight_decay = recipe.optim.weight_decay
    groups = parameter_groups(module.model, weight_decay=weight_decay, layer_decay=recipe.model.layer_decay)
    for name, parameter in _beside(module):
        if not parameter.requires_grad:
            continue
        decayed = name.removeprefix(_OWN) not in module.undecayed and decays(name, parameter)
        own = weight_decay if decayed else 0.0
        for group in groups:
            if (group["lr_scale"], group["weight_decay"]) == (1.0, own):
                break
        else:
            group = {"params": [], "weight_decay": own, "lr_scale": 1.0, "names": []}
            groups.append(group)
        group["params"].append(parameter)
        group["names"].append(name)
    return groups


def _modules_beside(module: DualEncoder) -> dict[str, nn.Module]:
    """What learns beside the model, by what its names begin with in a checkpoint."""
    found = {_OWN: module.heads, _CORNERS: module.corners, _MASKS: module.mask_tokens}
    return {begin: one for begin, one in found.items() if one is not None}


def _beside(module: DualEncoder, *, buffers: bool = False) -> Iterator[tuple[str, Any]]:
    """The parameters of what learns beside the model, or its buffers, by their names in a checkpoint."""
    for begin, one in _modules_beside(module).items():
        found = one.named_buffers() if buffers else one.named_parameters()
        yield from ((begin + name, value) for name, value in found)


@contextmanager
def _without_compiler() -> Iterator[None]:
    """Keep torch.compile from doing anything.

    When DeepSpeed is first initialised it decorates parts of an optimiser that we do not use, and that loads torch's
    whole compiler: 4 s of a core in every worker.
    """
    before = os.environ.get("TORCHDYNAMO_DISABLE")
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TORCHDYNAMO_DISABLE"]
        else:
            os.environ["TORCHDYNAMO_DISABLE"] = before


def _mean_over_ranks(gradients: Sequence[Tensor], _elements_per_buffer: int) -> None:
    """Stage 0's exchange, in place.  DeepSpeed's own copies all gradients into buffers and back, one after another."""
    world = dist.get_world_size() if dist.is_initialized() else 1
    if world == 1:
        return
    large = [g for g in gradients if g.numel() >= _BY_ITSELF and g.is_contiguous()]
    small = [g for g in gradients if g.numel() < _BY_ITSELF or not g.is_contiguous()]
    together = [torch.cat([g.flatten() for g in small])] if small else []
    for message in [dist.all_reduce(g, async_op=True) for g in large + together]:
        message.wait()
    torch._foreach_div_(large + together, world)
    means = torch.split(together[0], [g.numel() for g in small]) if small else ()
    for gradient, mean in zip(small, means, strict=True):
        gradient.copy_(mean.view_as(gradient))


def _make_moments(zero: Any, stage: int) -> None:
    """Give ZeRO the moments that its first step would make, so that a checkpoint's can be put there before it.

    At stages 1 and 2 DeepSpeed 0.19 links parameters to their moments once, after the step of the first group, and so
    never to those of later groups: linking them here fixes that too.
    """
    for flat in zero.fp32_partitioned_groups_flat if stage == 3 else zero.single_partition_of_fp32_groups:
        zero.optimizer.state[flat] = {
            "step": torch.zeros((), device=flat.device),  # where the fused AdamW looks for it
            **{moment: torch.zeros_like(flat, memory_format=torch.preserve_format) for moment in MOMENTS},
        }
    if stage < 3:
        zero._lazy_init_hp_params_optimizer_state()


def update(engine: Any) -> float:
    """Update the weights, after `engine.backward`; returns the L2 norm of the gradient of all ranks' batch.

    It is that of all parameters together, before clipping, the same on all ranks; infinite where fp16 overflowed.
    Before the last micro-batch nothing is updated, and the number means nothing.  A collective call.
    """
    if engine.zero_optimization():
        engine.step()
        return float(engine.get_global_grad_norm() or 0.0)
    # After the exchange in `backward`, and before DeepSpeed clips and clears them: stage 0 keeps no norm.
    gradients = [p.grad for p in engine.module.parameters() if p.grad is not None]
    norms = torch._foreach_norm(gradients) if gradients else ()
    norm = float(torch.linalg.vector_norm(torch.stack([n.double() for n in norms]))) if gradients else 0.0
    engine.step()
    return norm


def set_lr(engine: Any, lr: float) -> None:
    """The learning rate of the next update; groups have their share of it (`lr_scale`)."""
    for group in engine.optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def limit_scale(engine: Any, *, lowest: float, highest: float) -> None:
    """Keep the logit scale within [lowest, highest], in the optimiser's own copy of it too."""
    parameter = engine.module.model.logit_scale
    value = _weight(parameter)
    kept = value.clamp(math.log(lowest), math.log(highest))
    if not torch.equal(kept, value):
        _set_weight(parameter, kept)


def set_scale(engine: Any, scale: float) -> None:
    """Set the logit scale, where it is scheduled and not learnt."""
    parameter = engine.module.model.logit_scale
    _set_weight(parameter, torch.full_like(parameter.detach(), math.log(scale)))


def model_weights(engine: Any, *, keep: bool = True) -> dict[str, Tensor]:
    """The open_clip model's state dict, whole, float32, on the CPU; empty where not kept.  Every rank calls it."""
    weights = _whole(engine.module.model, keep)
    return {name: value.reshape(()) if name in LOSS_PARAMETERS else value for name, value in weights.items()}


def objective_weights(engine: Any, *, keep: bool = True) -> dict[str, Tensor]:
    """As `model_weights`, of what learns beside the model; empty if nothing does."""
    beside = _modules_beside(engine.module)
    return {begin + name: value for begin, one in beside.items() for name, value in _whole(one, keep).items()}


def _whole(module: nn.Module, keep: bool) -> dict[str, Tensor]:
    parameters = dict(module.named_parameters())
    found = {}
    for name, value in module.state_dict().items():
        whole = _weight(parameters[name]) if name in parameters else value
        if keep:
            found[name] = whole.detach().to("cpu", torch.float32 if whole.is_floating_point() else None, copy=True)
    return found


def optimizer_state(engine: Any, *, keep: bool = True) -> dict[str, Any]:
    """{"step": updates made, moment: {parameter name: tensor}}, whole, on the CPU.  Every rank calls it.

    keep: whether this rank wants the tensors, 8 bytes a parameter.
    """
    state: dict[str, Any] = {"step": _updates(engine), **{moment: {} for moment in MOMENTS}}
    for moment in MOMENTS:
        for name, parameter in _learning(engine):
            whole = _moment(engine, parameter, moment)
            if keep:
                state[moment][name] = whole.to("cpu", copy=True)
    return state


def load(engine: Any, weights: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Set weights and optimiser to what was saved, by any number of workers.

    weights: of `model_weights` and `objective_weights`.  state: of `optimizer_state`.
    Raises IntegrityError if those of a parameter are missing.
    """
    learning = [name for name, _ in _learning(engine)]
    held = [(weights, [name for name, _ in _parameters(engine)]), *((state[moment], learning) for moment in MOMENTS)]
    if missing := {name for found, names in held for name in names if name not in found}:
        raise IntegrityError(
            f"a checkpoint must hold every parameter of its run; missing: {', '.join(sorted(missing))}"
        )
    buffers = dict(engine.module.model.named_buffers())
    buffers |= dict(_beside(engine.module, buffers=True))
    with torch.no_grad():
        for name, value in weights.items():
            if name in buffers:
                buffers[name].copy_(value)
        for name, parameter in _parameters(engine):
            _set_weight(parameter, weights[name])
        for name, parameter in _learning(engine):
            for moment in MOMENTS:
                _set_moment(engine, parameter, moment, state[moment][name])
    for slot in _inner(engine).state.values():
        if "step" in slot:
            slot["step"] = torch.tensor(float(state["step"]), device=slot[MOMENTS[0]].device)
    engine.global_steps = int(state["step"])


def _parameters(engine: Any) -> Iterator[tuple[str, nn.Parameter]]:
    yield from engine.module.model.named_parameters()
    yield from _beside(engine.module)


def _learning(engine: Any) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, p) for name, p in _parameters(engine) if p.requires_grad)


def _inner(engine: Any) -> Any:
    """The torch optimiser; ZeRO wraps it."""
    return getattr(engine.optimizer, "optimizer", engine.optimizer)


def _updates(engine: Any) -> int:
    return int(engine.global_steps)


def _has_master(parameter: nn.Parameter) -> bool:
    """Whether ZeRO holds the weight, or parts of it, apart from the parameter."""
    return parameter.requires_grad and (hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping"))


def _weight(parameter: nn.Parameter) -> Tensor:
    from deepspeed.utils import safe_get_full_fp32_param

    if hasattr(parameter, "ds_id") and not parameter.requires_grad:
        import deepspeed

        with deepspeed.zero.GatheredParameters([parameter]):
            return parameter.detach().clone()
    if _has_master(parameter):
        whole: Tensor = safe_get_full_fp32_param(parameter)
        return whole
    return parameter.detach()


@torch.no_grad()
def _set_weight(parameter: nn.Parameter, value: Tensor) -> None:
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_local_fp32_param

    value = value.to(parameter.device).reshape(_shape(parameter))
    if hasattr(parameter, "ds_id"):
        import deepspeed

        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            parameter.data.copy_(value)
    else:
        parameter.data.copy_(value)
    if hasattr(parameter, "ds_id") and parameter.requires_grad:
        safe_set_local_fp32_param(parameter, _own_part(parameter, value.float()))
    elif _has_master(parameter):
        safe_set_full_fp32_param(parameter, value.float())


def _moment(engine: Any, parameter: nn.Parameter, moment: str) -> Tensor:
    from deepspeed.utils import safe_get_full_optimizer_state

    if _has_master(parameter):
        whole: Tensor = safe_get_full_optimizer_state(parameter, moment)
        return whole.reshape(_shape(parameter))
    kept: Tensor = _inner(engine).state[parameter][moment]
    return kept


def _set_moment(engine: Any, parameter: nn.Parameter, moment: str, value: Tensor) -> None:
    from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

    value = value.to(parameter.device)
    if hasattr(parameter, "ds_id"):
        safe_set_local_optimizer_state(parameter, _own_part(parameter, value), moment)
    elif _has_master(parameter):
        safe_set_full_optimizer_state(parameter, value, moment)
    else:
        slot = _inner(engine).state[parameter]
        slot.setdefault("step", torch.zeros((), device=value.device))
        slot[moment] = value.clone()


def _own_part(parameter: Any, value: Tensor) -> Tensor:
    """This rank's part of a whole tensor at ZeRO stage 3, which pads the last one (its own setter fails there)."""
    size, rank = parameter.ds_tensor.numel(), torch.distributed.get_rank()
    flat = torch.nn.functional.pad(value.flatten(), (0, size * torch.distributed.get_world_size() - value.numel()))
    return flat[rank * size : (rank + 1) * size]


def _shape(parameter: nn.Parameter) -> torch.Size:
    shape: torch.Size = getattr(parameter, "ds_shape", parameter.shape)
    return shape
