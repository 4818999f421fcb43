"""What every objective costs: time and memory of a training step, as multiples of those of clip.

    python benchmarks/losses.py              about three hours of one core; a CUDA device is used where there is one
    python benchmarks/losses.py --dry-run    every objective once, small and with few rows; nothing is recorded; about
                                             3 minutes

What has been measured is kept in runs/benchmarks/losses.json until all is: a run that was ended begins where it was,
if the code is still the same; --again begins anew.

A process for each objective and model holds two learners, one with clip and one with the objective alone, and lets them
take steps in turn, on the same made-up rows of two texts.  So whatever else the machine does slows both.  On a CPU they
have one thread, and time is the processor's, which does not pass while others have the core.  Time is the median of the
ratios of neighbouring steps; memory is the peak of a step over what was held before it, without the
weights and moments that both have.  Queues are full, as they are but for the first steps of a run.  The third column is
the loss alone, without towers: forward and backward on embeddings.  What needs more of the data than pictures and texts
has that column only.

The limit is the step of clip: an objective cannot take less than the towers.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from record import WORK, machine, record, table
from torch import Tensor

from pairmill.towers.token_features import pixels_of_patch
from training.gather import Exchange, open_exchange
from training.losses.loss_inputs import LossOutput
from training.model import Rows
from training.objectives.config import OBJECTIVES
from training.objectives.declaration import Setup, When
from training.objectives.reference import COSTS
from training.recipe import TrainRecipe
from training.step import train_step
from training.worker import build, start_learner, step_seed

ROOT = Path(__file__).resolve().parent.parent
SLOTS, LENGTH = 2, 32
#: Model -> architecture, rows of a step, side of its pictures.
MODELS: dict[str, tuple[str, int, int]] = {
    "small ViT": (str(ROOT / "pipelines" / "recipes" / "models" / "emoji-vit.json"), 128, 64),
    "ViT-B-32": ("ViT-B-32", 32, 224),
}
#: Needs that made-up pictures and texts meet, and those that made-up embeddings meet.
_OF_TOWERS = frozenset({"teacher", "frozen_teacher", "raw", "tokens", "masked", "pixels", "text_extra"})
_OF_EMBEDDINGS = frozenset(
    {"teacher", "frozen_teacher", "raw", "views", "image_views", "negatives", "columns", "text_extra"}
)
#: Corner tokens of a text, for an objective that learns from them.
CORNERS = 2
#: Rows and width of the loss alone.
ROWS, WIDTH = 2048, 512
#: What the dry run sets, so that it is soon done: widths and numbers that cost time by themselves.
SMALL: Mapping[str, Mapping[str, int]] = {
    "barlow": {"hidden": 64, "width": 64},
    "codebook": {"codes": 256},
    "intra_modal": {"queue_size": 256},
    "local_global": {"hidden": 64, "prototypes": 256},
    "masked_prediction": {"hidden": 64, "prototypes": 256},
    "momentum": {"queue": 256},
    "noise_adaptive": {"table": 1024},
    "prototype": {"hidden": 64, "clusters": 4, "episode": 8},
    "siam": {"hidden": 64},
    "swav": {"hidden": 64},
}


def recipe(architecture: str, rows: int, objective: Mapping[str, Any]) -> TrainRecipe:
    """A recipe of one worker, which names no data."""
    needs = OBJECTIVES.get(str(objective["name"])).needs
    return TrainRecipe.checked(
        {
            "run_dir": "unused",
            "data": {"path": "unused", "batch_size": rows, "texts": [[{}], [{}]]},
            "model": {"architecture": architecture, "corner_tokens": CORNERS * ("text_extra" in needs)},
            "loss": {"objective": dict(objective)},
            "optim": {"warmup_steps": 0},
            "train": {"steps": 1000, "precision": "bf16" if torch.cuda.is_available() else "fp32"},
            "deepspeed": {"stage": 0},
        }
    )


def batch(rows: int, side: int, vocabulary: int, length: int, device: torch.device) -> Rows:
    """Made-up rows, all with both texts."""
    random = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, vocabulary - 2, (rows, SLOTS, length), generator=random)
    tokens[..., -1] = vocabulary - 1  # where CLIP's text tower ends
    unknown = torch.full((rows, SLOTS), -1)
    made = (
        torch.randint(0, 256, (rows, side, side, 3), generator=random, dtype=torch.uint8),
        tokens,
        torch.ones(rows, SLOTS, dtype=torch.bool),
        torch.full((rows,), -1),
        unknown,
        unknown,
        torch.arange(rows),
    )
    return Rows(*(value.to(device) for value in made))


def stepper(
    architecture: str, rows: int, side: int, objective: Mapping[str, Any], device: torch.device
) -> Callable[[], None]:
    """A function that takes one training step with the objective, by its name and settings."""
    used = recipe(architecture, rows, objective)
    model: Any = build(used)
    vocabulary, length = model.vocab_size, min(LENGTH, model.context_length)
    setup = Setup(int(model.text_projection.shape[-1]), SLOTS, rows, 0, 1, used.loss.tile, 0, device)
    if "pixels" in OBJECTIVES.get(str(objective["name"])).needs:
        setup = setup._replace(patch_values=pixels_of_patch(model))
    learner = start_learner(model, used, setup)
    fill_queues(learner.objective.state)
    exchange, given, taken = open_exchange("gather")(0), batch(rows, side, vocabulary, length, device), 0

    def step() -> None:
        nonlocal taken
        learner.objective.when = When(taken, 1000, 100)
        train_step(
            learner.engine,
            given,
            learner.objective,
            exchange,
            accumulate=1,
            seed=step_seed(0, taken, 0),
            teacher=learner.teacher,
        )
        taken += 1

    return step


def fill_queues(state: dict[str, Tensor]) -> None:
    """Let queues hold embeddings of rows that no step has."""
    for name, value in state.items():
        if name.startswith("queue_") and value.is_floating_point():
            state[name] = F.normalize(torch.randn_like(value), dim=-1)
        elif name in ("queue_count", "queued"):
            state[name] = torch.full_like(value, len(state["queue_image"]))


def in_turn(steps: list[Callable[[], None]], rounds: int, device: torch.device) -> dict[str, float]:
    """Medians over rounds of the ratios of time and memory of the second to the first."""
    time_ratios, memory_ratios = [], []
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    for number in range(rounds + 1):
        seconds, peaks = [], []
        for step in steps:
            before = _reset_peak(device)
            began = clock()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(clock() - began)
            peaks.append(max(_peak(device) - before, 1e6))
        if number:  # the first one makes moments, threads and compiled code
            time_ratios.append(seconds[1] / seconds[0])
            memory_ratios.append(peaks[1] / peaks[0])
    return {"time": round(median(time_ratios), 3), "memory": round(median(memory_ratios), 3)}


def _reset_peak(device: torch.device) -> float:
    """Bytes held now, from which on the peak is counted."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return float(torch.cuda.memory_allocated())
    # What the allocator keeps of an earlier step would hide what this one takes.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak(device: torch.device) -> float:
    return float(torch.cuda.max_memory_allocated()) if device.type == "cuda" else _status("VmHWM")


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024.0 * int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])


def case(objective: str, model: str, rounds: int, *, dry: bool = False) -> dict[str, float]:
    """An objective against clip in this process.  model: of MODELS; `loss`: on embeddings alone."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(1)
    pair = [{"name": "clip"}, {"name": objective, **(SMALL.get(objective, {}) if dry else {})}]
    if model == "loss":
        return in_turn([alone(one, 64 if dry else ROWS, device) for one in pair], rounds, device)
    if not dist.is_initialized():
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    architecture, rows, side = MODELS[model]
    made = [stepper(architecture, 8 if dry else rows, side, one, device) for one in pair]
    return in_turn(made, rounds, device)


def alone(objective: Mapping[str, Any], rows: int, device: torch.device) -> Callable[[], None]:
    """A function that computes the loss of embeddings and its gradients."""
    settings = dict(objective)
    name = settings.pop("name")
    from training.objectives.by_name import computed

    random = torch.Generator().manual_seed(0)

    def units(*shape: int) -> Tensor:
        made = F.normalize(torch.randn(*shape, generator=random), dim=-1)
        return made.to(device).requires_grad_()

    tensors: dict[str, Any] = {
        "image": units(rows, WIDTH),
        "text": units(rows, SLOTS, WIDTH),
        "logit_scale": torch.tensor(14.3, device=device, requires_grad=True),
        "logit_bias": torch.tensor(-10.0, device=device, requires_grad=True),
        **tensors_of_needs(name, rows, units, device),
    }
    leaves = [value for value in tensors.values() if isinstance(value, Tensor) and value.requires_grad]

    def step() -> None:
        output: LossOutput = computed(name, tensors, settings, "paper", Exchange())[0]
        torch.autograd.grad(output.total, leaves, allow_unused=True)

    return step


def tensors_of_needs(
    objective: str, rows: int, units: Callable[..., Tensor], device: torch.device, width: int = WIDTH
) -> dict[str, Any]:
    """The tensors that the needs of an objective bring."""
    needs, found = set(OBJECTIVES.get(objective).needs), {}
    taught = needs & {"teacher", "frozen_teacher"}
    if "raw" in needs:
        found |= {"raw_image": units(rows, width), "raw_text": units(rows, SLOTS, width)}
    if taught:
        found |= {"teacher_image": units(rows, width), "teacher_text": units(rows, SLOTS, width)}
        found |= {f"teacher_{name}": value for name, value in found.items() if name.startswith("raw")}
    if "views" in needs:
        found |= {"image_views": units(rows, 2, width), "text_views": units(rows, 2, width)}
    if "image_views" in needs:
        found |= {"image_views": units(rows, 2, width)}
    if "text_extra" in needs:
        found |= {"text_extra": units(rows, SLOTS, CORNERS, width)}
    if "negatives" in needs:
        found |= {"neg_text": units(rows, 4, width)}
    if "columns" in needs:
        found |= {"tags": torch.randint(0, 50, (rows, 5), device=device)}
    return {name: value.detach() if name.startswith("teacher") else value for name, value in found.items()}


def measured(objective: str, model: str, rounds: int) -> dict[str, float]:
    """`case` in a process of its own."""
    command = [sys.executable, __file__, "--case", objective, model, str(rounds)]
    environment = os.environ | ({} if torch.cuda.is_available() else {"DS_ACCELERATOR": "cpu"})
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def kept(rounds: int) -> tuple[Path, dict[str, Any]]:
    """The file of what has been measured, and what it holds, if it is of the same code and number of rounds."""
    files = [Path(__file__), *sorted((ROOT / "training").rglob("*.py"))]
    code = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    file = WORK / "losses.json"
    held = json.loads(file.read_text()) if file.exists() else {}
    began = {"code": code, "rounds": rounds, "device": "cuda" if torch.cuda.is_available() else "cpu"}
    return file, held if {name: held.get(name) for name in began} == began else {**began, "found": {}}


def models_of(objective: str) -> list[str]:
    """Where an objective can be measured: with the models only if the loop delivers what it needs."""
    needs = set(OBJECTIVES.get(objective).needs)
    # Tokens come from towers; views, wrong texts and columns from data, which the made-up rows lack.
    return [*(MODELS if needs <= _OF_TOWERS else []), *(["loss"] if needs <= _OF_EMBEDDINGS else [])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="steps of each, in turn (default 5)")
    parser.add_argument("--objectives", nargs="+", default=OBJECTIVES.names, help="only these")
    parser.add_argument("--again", action="store_true", help="forget what an earlier run has measured")
    parser.add_argument("--dry-run", action="store_true", help="small, one round; nothing is recorded")
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        objective, model, rounds = options.case
        print(json.dumps(case(objective, model, int(rounds))))
        return
    began = machine()
    found: dict[str, dict[str, dict[str, float]]] = {name: {} for name in options.objectives}
    if options.dry_run:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    file, held = kept(options.rounds)
    known = {} if options.again else held["found"]
    columns = [*MODELS, "loss"]
    # The large model comes last: it takes most of the time, and has no step that the small one lacks.
    for model in ["small ViT", "loss", *([] if options.dry_run else ["ViT-B-32"])]:
        for objective in options.objectives:
            if model not in models_of(objective):
                continue
            at = f"{objective} {model}"
            if options.dry_run:
                known[at] = case(objective, model, 1, dry=True)
            elif at not in known:
                known[at] = measured(objective, model, options.rounds)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps(held | {"found": known}))
            found[objective][model] = known[at]
            print(at, known[at], flush=True)
    table(
        ["objective", *(f"{model}: {kind}" for model in columns for kind in ("time", "memory"))],
        [
            [name, *(of.get(model, {}).get(kind, "—") for model in columns for kind in ("time", "memory"))]
            for name, of in found.items()
        ],
    )
    if options.dry_run:
        return
    figures = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "models": {name: {"rows": rows, "side": side} for name, (_, rows, side) in MODELS.items()},
        "loss": {"rows": ROWS, "width": WIDTH},
        "slots": SLOTS,
        "objectives": found,
    }
    record("losses", figures, began)
    file.unlink()
    costs = {name: of["small ViT"] for name, of in found.items() if "small ViT" in of}
    COSTS.write_text(json.dumps(costs, indent=1) + "\n")


if __name__ == "__main__":
    main()
