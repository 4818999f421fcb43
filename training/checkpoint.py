"""Checkpoints: a model folder that plain open_clip loads, and beside it what training needs to resume.

    open_clip_config.json, open_clip_model.safetensors, tokenizer files     as `export` writes them
    optimizer.pt    Adam's moments by parameter name, whole
    ema.pt          the averaged weights, if there are any
    objective.pt    state, parameters and teachers of an objective that has any (`objectives/saved.py`)
    training.json   step (updates made), the plan's fingerprint, the metrics of the last evaluation, which of the two
                    files above there must be, and digests of all files (`checkpoint_files.py`)

Nothing in it depends on the number of workers or the ZeRO stage, except what an objective keeps per worker.
"""

from __future__ import annotations

import json
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from ray import train as ray_train
from ray.train import CheckpointConsistencyMode
from safetensors.torch import load_file
from torch import Tensor

from pairmill.checkpoint_files import TRAINING_FILE, sealed
from pairmill.errors import IntegrityError
from pairmill.faults import fault_point
from pairmill.towers.tokenizer import Tokenizer
from pairmill.towers.weights import WEIGHTS_FILE
from training.ema import Ema
from training.engine import load, model_weights, objective_weights, optimizer_state
from training.errors import diverged
from training.export import export_open_clip
from training.objectives.declaration import Objective
from training.objectives.saved import resume, to_save
from training.teacher import Teachers

T = TypeVar("T")

OPTIMIZER_FILE, EMA_FILE, OBJECTIVE_FILE = "optimizer.pt", "ema.pt", "objective.pt"
#: Files that some runs have.
_BESIDE = (EMA_FILE, OBJECTIVE_FILE)


class Learner(NamedTuple):
    """Everything that learns or holds what was learnt; a checkpoint saves it."""

    engine: Any  #: DeepSpeed's, around a DualEncoder
    ema: Ema | None
    objective: Objective
    teacher: Teachers | None


class Progress(NamedTuple):
    """Where a run stands."""

    step: int  #: optimiser updates made, so also global batches consumed
    plan: str  #: fingerprint of the data plan
    metrics: Mapping[str, float]  #: of the latest evaluation
    evaluated: int | None  #: the step of that evaluation; None: there was none
    recipe: str = ""  #: `intact.recipe_digest`
    log: Mapping[str, Any] | None = None  #: size and digest of metrics.jsonl at this step


def save(learner: Learner, progress: Progress, describe: Describe, *, rank: int, saved: int | None) -> None:
    """Write a checkpoint and wait until Ray Train has committed it: only then does it count.  A collective call.

    saved: the step of the run's checkpoint before, if there is one.
    Raises FinalError for weights that are not finite, which are not saved, and IntegrityError as `to_save` does.
    """
    engine, ema, objective, teacher = learner
    weights, state = model_weights(engine, keep=rank == 0), optimizer_state(engine, keep=rank == 0)
    if not from_first(all(bool(w.isfinite().all()) for w in weights.values())):
        raise diverged(f"the weights after step {progress.step} are not finite", saved)
    own = to_save(objective, teacher, objective_weights(engine, keep=rank == 0), rank=rank)
    # A run that dies between upload and commit uploads the same step again.
    name = from_first(f"step-{progress.step:09d}-{uuid.uuid4().hex[:8]}")
    folder = None
    with tempfile.TemporaryDirectory(prefix="pairmill-") as scratch:
        if rank == 0:
            folder = Path(scratch) / "checkpoint"
            write(folder, Parts(weights, state, ema, own), progress, describe, home=_home(name))
        del weights, state, own
        fault_point("train.save")
        ray_train.report(
            {"step": progress.step, "evaluated": progress.evaluated, **progress.metrics},
            checkpoint=ray_train.Checkpoint.from_directory(str(folder)) if folder else None,
            checkpoint_dir_name=name,
        )
        fault_point("train.reported")
        ray_train.get_all_reported_checkpoints(consistency_mode=CheckpointConsistencyMode.COMMITTED)
    fault_point("train.committed")


class Describe(NamedTuple):
    """What a model folder says about its model."""

    model: Mapping[str, Any]  #: `model_description`
    tokenizer: Tokenizer


class Parts(NamedTuple):
    """What a learner holds, whole, on the CPU."""

    weights: dict[str, Tensor]  #: `model_weights`
    optimizer: dict[str, Any]  #: `optimizer_state`
    ema: Ema | None
    objective: dict[str, Any] | None  #: `to_save`


def _home(name: str) -> str:
    """Where Ray Train puts the checkpoint of this name; in an object store, wherever it is copied to and read from."""
    storage = ray_train.get_context().get_storage()
    local = storage.storage_filesystem.type_name == "local"
    return str(storage.build_checkpoint_path_from_name(name)) if local else "."


def write(folder: Path, parts: Parts, progress: Progress, describe: Describe, *, home: str | None = None) -> None:
    """Write the files of a checkpoint.  folder: not there yet.  home: where it is moved."""
    export_open_clip(parts.weights, describe.model, describe.tokenizer, folder, home=home)
    torch.save(parts.optimizer, folder / OPTIMIZER_FILE)
    if parts.ema is not None:
        torch.save(parts.ema.state_dict(), folder / EMA_FILE)
    if parts.objective is not None:
        torch.save(parts.objective, folder / OBJECTIVE_FILE)
    beside = [name for name in _BESIDE if (folder / name).exists()]
    (folder / TRAINING_FILE).write_text(sealed(folder, {**progress._asdict(), "beside": beside}))


def restore(learner: Learner, folder: Path) -> Progress:
    """Set a learner to a checkpoint.  Every rank calls it.

    Raises RecipeError as `objectives.saved.resume` does, and IntegrityError for a checkpoint of another model, or one
    that lacks what was saved with it.
    """
    engine, ema, objective, teacher = learner
    data = json.loads((folder / TRAINING_FILE).read_text())
    # Checkpoints of earlier versions do not say; they are resumed all the same.
    if missing := [name for name in data.get("beside", ()) if not (folder / name).exists()]:
        raise IntegrityError(f"a checkpoint must hold the files that were saved with it; missing: {', '.join(missing)}")
    own = _loaded(folder / OBJECTIVE_FILE) if (folder / OBJECTIVE_FILE).exists() else None
    resume(objective, teacher, own)
    weights = load_file(folder / WEIGHTS_FILE) | (own["parameters"] if own is not None else {})
    load(engine, weights, _loaded(folder / OPTIMIZER_FILE))
    if ema is not None and (folder / EMA_FILE).exists():
        ema.load_state_dict(_loaded(folder / EMA_FILE))
    step, metrics = int(data["step"]), dict(data["metrics"])
    # Checkpoints of earlier versions do not say; they were evaluated before they were saved.
    return Progress(step, str(data["plan"]), metrics, data.get("evaluated", step if metrics else None))


def _loaded(file: Path) -> Any:
    return torch.load(file, map_location="cpu", weights_only=True)


def from_first(value: T) -> T:
    """The first rank's value, on all ranks.  A collective call."""
    values = [value]
    if torch.distributed.is_initialized():
        torch.distributed.broadcast_object_list(values, src=0)
    return values[0]
