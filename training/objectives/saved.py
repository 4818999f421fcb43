"""An objective in a checkpoint: its state, its own parameters, its teachers.

    objective      name
    world          workers of the run that saved it
    parameters     {name: tensor}, whole, of the heads
    replicated     {name: tensor}
    per_worker     {name: [tensor of each worker]}
    teacher        the average's `state_dict`, or None
    frozen         {name: tensor} of the model as its run began, or None

A run resumes with any number of workers, unless its objective keeps tensors per worker.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

from pairmill.errors import IntegrityError, RecipeError
from training.objectives.declaration import Objective, Where

if TYPE_CHECKING:
    from torch import Tensor

    from training.teacher import Frozen, Teacher, Teachers


def to_save(
    objective: Objective, teacher: Teachers | None, parameters: Mapping[str, Tensor], *, rank: int
) -> dict[str, Any] | None:
    """What a checkpoint holds of an objective, on the CPU; None on other ranks, and where there is nothing to hold.

    A collective call.  Raises IntegrityError, on all ranks, if workers differ in what is the same on all of them.
    """
    import torch.distributed as dist

    state = {name: value.detach().to("cpu", copy=True) for name, value in objective.state.items()}
    replicated, own = ({k.name: state[k.name] for k in objective.keeps if k.where == w} for w in get_args(Where))
    digests = {name: _digest(value) for name, value in replicated.items()}
    world = dist.get_world_size() if dist.is_initialized() else 1
    digests_of, own_of = [digests] * world, [own] * world
    if world > 1 and objective.keeps:
        dist.all_gather_object(digests_of, digests)
        dist.gather_object(own, own_of if rank == 0 else None)
    for name in digests:
        if len({of_rank[name] for of_rank in digests_of}) > 1:
            raise IntegrityError(
                f"replicated state must be the same on all workers: {name} of loss.objective {objective.config.name} "
                "differs; after_step must change it by what all workers know (exchange.everyone, exchange.total)"
            )
    if rank != 0 or not (objective.keeps or parameters or teacher is not None):
        return None
    return {
        "objective": objective.config.name,
        "world": world,
        "parameters": dict(parameters),
        "replicated": replicated,
        "per_worker": {name: [of_rank[name] for of_rank in own_of] for name in own},
        "teacher": _state_of(teacher.average if teacher is not None else None),
        "frozen": _state_of(teacher.frozen if teacher is not None else None),
    }


def resume(objective: Objective, teacher: Teachers | None, saved: Mapping[str, Any] | None) -> None:
    """Set an objective to what `to_save` gave.  Its parameters are the engine's to set.

    saved: None: the checkpoint holds nothing of an objective.
    Raises RecipeError for state of another objective, or per worker of another number of workers.
    """
    name, setup = objective.config.name, objective.setup
    if saved is None:
        if objective.keeps or teacher is not None:
            raise RecipeError(
                f"a run of loss.objective {name} must begin at its first step, or from a checkpoint of that objective",
                value="a checkpoint without its state",
                fix="set model.pretrained to the checkpoint, for its weights alone",
            )
        return
    if saved["objective"] != name:
        raise RecipeError(
            "a run must keep the objective of its checkpoint",
            value=f"loss.objective {name}; the checkpoint: {saved['objective']}",
            fix="set model.pretrained to the checkpoint, for its weights alone",
        )
    if saved["per_worker"] and saved["world"] != setup.world:
        raise RecipeError(
            f"loss.objective {name} keeps {', '.join(saved['per_worker'])} per worker: its run must resume with the "
            "number of workers that it was saved with",
            value=f"{setup.world} workers; the checkpoint: {saved['world']}",
            fix=f"set compute.workers to {saved['world']}",
        )
    objective.load_state(
        {**saved["replicated"], **{name: parts[setup.rank] for name, parts in saved["per_worker"].items()}}
    )
    average, frozen = (teacher.average, teacher.frozen) if teacher is not None else (None, None)
    for what, one in (("teacher", average), ("frozen", frozen)):
        if one is None:
            continue
        if saved.get(what) is None:
            words = "teacher" if what == "teacher" else "frozen teacher"
            raise IntegrityError(f"the checkpoint of loss.objective {name} must hold its {words}; it holds none")
        one.load_state_dict(saved[what])


def _state_of(one: Teacher | Frozen | None) -> dict[str, Any] | None:
    return None if one is None else one.state_dict()


def _digest(value: Tensor) -> str:
    import torch

    return hashlib.blake2b(value.flatten().contiguous().view(torch.uint8).numpy().data, digest_size=16).hexdigest()
