"""Training throughput from files on disk to the optimiser's step: pairmill against open_clip_train.

    python benchmarks/train.py            --rounds, --steps, --models and --precisions shorten it

Both have the same architectures, initial weights, pairs, order of pairs, learning rates, and two gloo workers with one
thread each.  pairmill runs on Ray as `pairmill train` does.  open_clip_train runs unchanged (`open_clip_peer.py`), with
the number of loader processes that suits it best, which is tried first.  They alternate, each run in processes of its
own; the first steps of each are left out.  For where the seconds of a step go, see `train_clock.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import socket
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from record import machine, ratios, record, table, versions
from train_clock import PARTS
from train_data import PAIRS, Pairs, make_pairs, text_lengths, write_csv

HERE = Path(__file__).resolve().parent

#: What the issue asks for: samples/s over open_clip_train's, at equal precision.
BAR = 1.35

WORKERS = 2
#: Left out of each run, while caches fill and buckets are made.
WARM_UP = 3
OPTIM = {"weight_decay": 0.2, "beta1": 0.9, "beta2": 0.98, "eps": 1e-6, "warmup_steps": 4}
PRECISIONS = {"fp32": "fp32", "bf16": "amp_bf16"}

#: Loader processes of each of open_clip_train's workers that are tried; with 0 the worker itself reads.
#: It reads a list of files: its webdataset pipeline fails on the end-of-shard marks of webdataset 0.2.111.
LOADERS = (0, 1, 2)


class Model(NamedTuple):
    """An architecture and how it is run.  Images are stored at 8/7 of the tower's size, as 256 is 8/7 of 224."""

    rows: int  #: of a worker's batch
    stored: int  #: pixels
    steps: int
    lr: float  #: from which the loss falls within so few steps
    config: dict[str, Any] | None = None  #: None: open_clip knows it by its name


_SMALL = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 112, "patch_size": 16, "layers": 4, "width": 128, "head_width": 64},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "layers": 4, "width": 128, "heads": 2},
}
MODELS = {"ViT-small-16-112": Model(128, 128, 14, 5e-4, _SMALL), "ViT-B-32": Model(32, 256, 9, 5e-5)}


class Case(NamedTuple):
    """One run of one contender."""

    folder: Path  #: of this round: weights, model, both contenders' notes
    model: str
    precision: str
    steps: int
    seed: int
    pairs: Pairs

    @property
    def config(self) -> Path:
        """The architecture, if open_clip does not know it."""
        return self.folder / f"{self.model}.json"

    @property
    def weights(self) -> Path:
        """The weights that both start from."""
        return self.folder / "start.pt"


def prepare(case: Case) -> None:
    """Draw the weights, write the architecture."""
    import open_clip
    import torch

    case.folder.mkdir()
    config = MODELS[case.model].config
    if config is not None:
        case.config.write_text(json.dumps(config))
        open_clip.add_model_config(case.config)
    torch.manual_seed(case.seed)
    torch.save(open_clip.create_model(case.model).state_dict(), case.weights)


def run_pairmill(case: Case) -> dict[str, Any]:
    """`pairmill train`, with a clock in its workers; called in a process of its own."""
    from training import train as training
    from training.recipe import TrainRecipe

    model, notes = MODELS[case.model], case.folder / "pairmill"
    recipe = {
        "run_dir": str(case.folder / "run"),
        "name": "benchmark",
        # Reads no further ahead than open_clip_train's loaders do: the data of a step is read during the step before.
        "data": {
            "path": str(case.pairs.parquet),
            "batch_size": model.rows * WORKERS,
            "lanes": WORKERS,
            "bundle_rows": model.rows,
            "look_ahead": 2,
            "reader_cpus": 0.5,
        },
        "model": {
            "architecture": case.model if model.config is None else str(case.config),
            "pretrained": str(case.weights),
        },
        "optim": OPTIM | {"lr": model.lr},
        "deepspeed": {"stage": 0},  # whole on every worker, as open_clip_train has it
        "train": {"steps": case.steps, "seed": case.seed, "precision": case.precision},
        "compute": {"workers": WORKERS, "threads": 1, "cpus_per_worker": 0.5, "num_cpus": 2, "max_failures": 0},
        "checkpoint": {"every_steps": case.steps},
    }
    notes.mkdir()
    with contextlib.redirect_stdout(sys.stderr):
        training.launch = functools.partial(_launch, folder=str(notes), watch=_watch(case))
        training.train(TrainRecipe.model_validate(recipe), quiet=True)
    return measured(notes, case)


def _launch(config: Any, folder: str, watch: tuple[int, int, int]) -> None:
    # Ray pickles this function by value, with everything it names from this module.
    sys.path[:0] = [str(HERE)]
    from train_clock import Watch, launch_pairmill

    launch_pairmill(config, Path(folder), Watch(*watch))


def _watch(case: Case) -> tuple[int, int, int]:
    """This process and its descendants, over the steps that count."""
    return os.getpid(), WARM_UP, case.steps - 1


def run_open_clip(case: Case, loaders: int, *, order: list[list[list[int]]]) -> dict[str, Any]:
    """open_clip_train on as many processes.  order: rows to train on, [rank][step][row]."""
    model, notes = MODELS[case.model], case.folder / f"open_clip-{loaders}"
    notes.mkdir()
    write_csv(notes / "pairs.csv", case.pairs, order)
    arguments = {
        "--train-data": notes / "pairs.csv",
        "--dataset-type": "csv",
        "--workers": loaders,
        "--batch-size": model.rows,
        "--model": case.model,
        "--pretrained": case.weights,
        "--precision": PRECISIONS[case.precision],
        "--epochs": 1,
        "--lr": model.lr,
        "--wd": OPTIM["weight_decay"],
        "--beta1": OPTIM["beta1"],
        "--beta2": OPTIM["beta2"],
        "--eps": OPTIM["eps"],
        "--warmup": OPTIM["warmup_steps"],
        "--seed": case.seed,
        "--device": "cpu",
        "--dist-backend": "gloo",
        "--logs": notes,
        "--log-every-n-steps": 1,
    }
    flags = [str(part) for pair in arguments.items() for part in pair] + ["--local-loss", "--gather-with-grad"]
    configs = [] if model.config is None else [str(case.config)]
    command = [
        sys.executable,
        str(HERE / "open_clip_peer.py"),
        str(notes),
        json.dumps(_watch(case)),
        *configs,
        "--",
        *flags,
    ]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    world = {"WORLD_SIZE": str(WORKERS), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    logs = [notes / f"rank-{rank}.log" for rank in range(WORKERS)]
    started = [
        subprocess.Popen(
            command,
            env=os.environ | world | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=log.open("w"),
            stderr=subprocess.STDOUT,
        )
        for rank, log in enumerate(logs)
    ]
    try:
        failed = [log for process, log in zip(started, logs, strict=True) if process.wait() != 0]
    finally:
        for process in started:
            process.kill()
    if failed:
        raise RuntimeError(f"open_clip_train failed:\n{failed[0].read_text()[-3000:]}")
    return measured(notes, case)


def measured(notes: Path, case: Case) -> dict[str, Any]:
    """Speed, losses and parts of a run, from what its workers recorded."""
    ranks = [json.loads((notes / f"rank-{rank}.json").read_text()) for rank in range(WORKERS)]
    # The last step ends with the run, not with a request for another batch.
    steps = [rank["steps"][WARM_UP : case.steps - 1] for rank in ranks]
    seconds = mean(sum(step.values()) for rank in steps for step in rank)
    batch, cpu = MODELS[case.model].rows * WORKERS, ranks[0]["cpu_seconds"]
    return {
        "samples_per_second": round(batch / seconds, 2),
        "samples_per_cpu_second": round(batch * len(steps[0]) / (cpu[1] - cpu[0]), 2),
        "parts": {part: round(mean(step[part] for rank in steps for step in rank), 4) for part in PARTS},
        "losses": [round(mean(both), 5) for both in zip(*(rank["losses"] for rank in ranks), strict=True)],
        "text_tokens": round(mean(tokens for rank in ranks for tokens in rank["text_tokens"]), 1),
        "order": [rank["rows"] for rank in ranks],
    }


def run_pairmill_apart(case: Case) -> dict[str, Any]:
    """`run_pairmill` in a process of its own."""
    spelled = json.dumps(case._replace(folder=str(case.folder), pairs=None), default=str)
    log = case.folder / "pairmill.log"
    with log.open("w") as errors:
        done = subprocess.run([sys.executable, __file__, "--case", spelled], stdout=subprocess.PIPE, stderr=errors)
    if done.returncode:
        raise RuntimeError(f"pairmill failed:\n{log.read_text()[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    # Batches are read ahead of the last step, which ends the run.
    return found | {"order": [rank[: case.steps] for rank in found["order"]]}


def tried_loaders(case: Case) -> dict[int, float]:
    """open_clip_train's samples/s by number of loaders."""
    rows = MODELS[case.model].rows
    order = [[[(step * rows + row) % PAIRS for row in range(rows)] for step in range(case.steps)]] * WORKERS
    prepare(case)
    return {loaders: run_open_clip(case, loaders, order=order)["samples_per_second"] for loaders in LOADERS}


def compare(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Speeds, parts and losses of alternating runs."""
    ours, theirs = runs["pairmill"], runs["open_clip"]
    line: dict[str, Any] = {
        name: {
            **{
                rate: round(mean(run[rate] for run in of), 2)
                for rate in ("samples_per_second", "samples_per_cpu_second")
            },
            "parts": {part: round(mean(run["parts"][part] for run in of), 4) for part in PARTS},
            "text_tokens": mean(run["text_tokens"] for run in of),
            "runs": [{key: value for key, value in run.items() if key != "order"} for run in of],
        }
        for name, of in runs.items()
    }
    line["ratio"] = ratios([run["samples_per_second"] for run in ours], [run["samples_per_second"] for run in theirs])
    line["losses"] = _curves([run["losses"] for run in ours], [run["losses"] for run in theirs])
    return line


def _curves(ours: list[list[float]], theirs: list[list[float]]) -> dict[str, Any]:
    """The last third of each curve, and how far apart seeds are there; a round is a seed."""
    third = max(1, len(ours[0]) // 3)
    both = list(zip(ours, theirs, strict=True))
    ends = [[mean(run[-third:]) for run in of] for of in (ours, theirs)]
    return {
        "last_third": {"pairmill": [round(e, 4) for e in ends[0]], "open_clip": [round(e, 4) for e in ends[1]]},
        "difference": [round(a - b, 4) for a, b in zip(*ends, strict=True)],
        "spread_of_seeds": [round(stdev(of), 4) for of in ends] if len(ours) > 1 else None,
        "largest_of_a_step": round(max(abs(a - b) for run in both for a, b in zip(*run, strict=True)), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2, help="alternations, each with another seed (default 2)")
    parser.add_argument("--steps", type=int, help=f"steps of a run, {WARM_UP} of them to warm up")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--precisions", nargs="+", default=list(PRECISIONS), choices=PRECISIONS)
    parser.add_argument("--loaders", type=int, help="loader processes of open_clip_train (default: what is best)")
    parser.add_argument("--result", default="train", help="name of the JSON (default train)")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        given = json.loads(options.case)
        case = Case(*given)
        case = case._replace(folder=Path(case.folder), pairs=make_pairs(MODELS[case.model].stored))
        print(json.dumps(run_pairmill(case)))
        return

    if options.steps is not None and options.steps < WARM_UP + 2:
        parser.error(f"--steps is at least {WARM_UP + 2}: {WARM_UP} to warm up, one to measure, one to end with")
    began = machine()
    pairs = {name: make_pairs(MODELS[name].stored) for name in options.models}
    figures: dict[str, Any] = {
        "versions": versions() | {name: version(name) for name in ("torch", "open_clip_torch", "deepspeed")},
        "bar": BAR,
        "workers": WORKERS,
        "text_tokens": text_lengths(next(iter(pairs.values())).texts),
        "cases": {},
    }
    with tempfile.TemporaryDirectory(prefix="pairmill-train-") as name:
        top = Path(name)
        if options.loaders is None:
            # Where the towers are small it matters most.
            model = options.models[0]
            case = Case(top / "loaders", model, options.precisions[0], options.steps or 10, 0, pairs[model])
            tried = figures["tried_loaders"] = tried_loaders(case)
            options.loaders = max(tried, key=tried.__getitem__)
            print(f"samples/s of open_clip_train by loader processes: {tried}", flush=True)
        figures["loaders"] = options.loaders
        for model in options.models:
            for precision in options.precisions:
                runs: dict[str, list[dict[str, Any]]] = {"pairmill": [], "open_clip": []}
                for seed in range(options.rounds):
                    steps = options.steps or MODELS[model].steps
                    case = Case(top / f"{model}-{precision}-{seed}", model, precision, steps, seed, pairs[model])
                    prepare(case)
                    runs["pairmill"].append(run_pairmill_apart(case))
                    order = runs["pairmill"][-1]["order"]
                    runs["open_clip"].append(run_open_clip(case, options.loaders, order=order))
                figures["cases"][f"{model} {precision}"] = compare(runs)
                print(f"{model} {precision} done", flush=True)
                record(options.result, figures, began)
    show(figures)


def show(figures: dict[str, Any]) -> None:
    """Two tables: speeds, and the milliseconds of a step."""
    cases = figures["cases"]
    names = ("open_clip", "pairmill")
    speeds = [
        [case, *(line[name]["samples_per_second"] for name in names), f"{line['ratio']['median']:.2f}"]
        for case, line in cases.items()
    ]
    table(["samples/s", "open_clip_train", "pairmill", f"ratio (bar {BAR})"], speeds)
    print()
    parts = [
        [f"{case}, {name}", *(1000 * line[name]["parts"][part] for part in PARTS)]
        for case, line in cases.items()
        for name in names
    ]
    table(["ms of a step", *PARTS], parts)
    print()
    for case, line in cases.items():
        print(f"{case}: loss over the last third, {json.dumps(line['losses'])}")


if __name__ == "__main__":
    main()
