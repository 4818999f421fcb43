"""Kill training at named points, resume it, and compare the loss of every step with that of an uninterrupted run.

    python benchmarks/train_resume.py              about 20 minutes on 2 idle cores

Each run is `pairmill train` as its own process with one point armed.  The point kills its own process (a training
worker or a reader) or the driver (`kill-driver`).  Then the command is repeated until the run is finished.  Losses must
be equal bit for bit with the same number of workers, and within 1e-4 over 2, then 1, then 2 workers.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from record import machine, record

ROOT = Path(__file__).resolve().parent.parent
STEPS = 12

#: point, action, pass.  Two workers pass the points of a step together.
POINTS: list[tuple[str, str, int]] = [
    ("train.step", "kill", 3),
    ("train.step", "kill", 8),
    ("train.step", "kill", 15),
    ("train.step", "kill", 23),
    ("train.step", "kill-driver", 5),
    ("train.step", "kill-driver", 18),
    ("train.read_bundle", "kill", 9),
    ("train.save", "kill", 3),
    ("train.save", "kill-driver", 2),
    ("train.reported", "kill", 1),
    ("train.reported", "kill-driver", 3),
    ("train.committed", "kill", 4),
]

RECIPE: dict[str, Any] = {
    "name": "resume",
    "data": {
        "path": str(ROOT / "samples" / "emoji-google" / "pairs.parquet"),
        "batch_size": 32,
        "lanes": 4,
        "bundle_rows": 32,
        "texts": [[{"language": "en"}], [{"language": "zh"}]],
        "reader_cpus": 0.5,
    },
    # No batch normalisation: its statistics are of a worker's own rows, so they depend on the number of workers.
    "model": {"architecture": str(ROOT / "tests" / "training" / "towers" / "configs" / "vit.json")},
    "loss": {"objective": "one_to_k"},
    "optim": {"lr": 1e-3, "warmup_steps": 4},
    "train": {"steps": STEPS, "precision": "fp32"},
    "compute": {"workers": 2, "cpus_per_worker": 0.5, "threads": 1},
    "checkpoint": {"every_steps": 3},
}


def run(folder: Path, name: str, *overrides: str, **armed: str) -> int:
    """`pairmill train` as a process; its exit code, or minus the signal that ended it."""
    command = [sys.executable, "-m", "pipelines", "train", str(folder / "recipe.yaml"), f"run_dir={folder / name}"]
    with (folder / f"{name}.log").open("ab") as log:
        done = subprocess.run(
            [*command, *overrides, "--json"], env=os.environ | armed, stdout=log, stderr=log, cwd=ROOT
        )
    time.sleep(5)  # a killed driver's cluster ends by itself a moment later
    return done.returncode


def losses(folder: Path, name: str) -> list[float]:
    """The loss of every step; empty if a step is missing or reported twice."""
    lines = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    return [line["loss"] for line in steps] if [s["step"] for s in steps] == list(range(1, STEPS + 1)) else []


def try_point(folder: Path, number: int, point: str, action: str, at: int, expected: list[float]) -> dict[str, Any]:
    """Kill at one point, resume, compare."""
    name = f"run-{number:02d}"
    faults = folder / f"{name}-faults"
    faults.mkdir()
    began = time.monotonic()
    killed = run(folder, name, PAIRMILL_FAULTS=f"{point}:{action}@{at}", PAIRMILL_FAULTS_DIR=str(faults))
    resumed = killed if killed == 0 else run(folder, name)
    passes = faults / f"{point}.passes"
    return {
        "point": point,
        "action": action,
        "pass": at,
        "fired": passes.exists() and passes.stat().st_size >= at,
        "killed_exit": killed,
        "resumed_exit": resumed,
        "identical": losses(folder, name) == expected,
        "seconds": round(time.monotonic() - began, 1),
    }


def good(result: dict[str, Any]) -> bool:
    """Whether one point's result is what we promise."""
    expected_exit = -signal.SIGKILL if result["action"] == "kill-driver" else 0
    exits = result["killed_exit"] == expected_exit and result["resumed_exit"] == 0
    return bool(result["fired"] and exits and result["identical"])


def over_other_workers(folder: Path, expected: list[float]) -> dict[str, Any]:
    """Two workers, killed; then one, killed; then two to the end: the largest relative difference of a loss."""
    for part, (workers, passes) in enumerate(((2, 10), (1, 5), (2, 0))):
        faults = folder / f"workers-faults-{part}"
        faults.mkdir()
        armed = {"PAIRMILL_FAULTS": f"train.step:kill-driver@{passes}", "PAIRMILL_FAULTS_DIR": str(faults)}
        run(folder, "workers", f"compute.workers={workers}", **(armed if passes else {}))
    found = losses(folder, "workers")
    differences = [abs(a / b - 1) for a, b in zip(found, expected, strict=bool(found))]
    return {"workers": [2, 1, 2], "largest_relative_difference": max(differences, default=None)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=len(POINTS), help="try the first so many (default all)")
    count = parser.parse_args().points
    began = machine()
    with tempfile.TemporaryDirectory(prefix="pairmill-train-") as name:
        folder = Path(name)
        (folder / "recipe.yaml").write_text(json.dumps({"run_dir": "set by each run", **RECIPE}))
        assert run(folder, "whole") == 0, (folder / "whole.log").read_text()[-3000:]
        expected = losses(folder, "whole")
        assert expected, "the uninterrupted run has a line a step"
        figures: dict[str, Any] = {"steps": STEPS, "other_workers": over_other_workers(folder, expected), "results": []}
        print(figures["other_workers"], flush=True)
        for number, (point, action, at) in enumerate(POINTS[:count]):
            result = try_point(folder, number, point, action, at, expected)
            figures["results"].append(result)
            figures["passed"] = sum(map(good, figures["results"]))
            record("train_resume", figures, began)
            print("ok " if good(result) else "BAD", json.dumps(result), flush=True)
            if not good(result):
                print((folder / f"run-{number:02d}.log").read_text()[-3000:], flush=True)
    print(f"{figures['passed']} of {len(figures['results'])} kills resumed to the same loss of every step")
    sys.exit(figures["passed"] != len(figures["results"]))


if __name__ == "__main__":
    main()
