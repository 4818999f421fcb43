"""Sweeps that finish, are stopped, interrupted or killed: nothing outlives them, and a resumed one ends the same.

    python benchmarks/sweep_faults.py              about 25 minutes on 2 idle cores

One cluster (`ray start --head`) serves all sweeps; each `pairmill sweep` is a process of its own.  After each of them
Ray's state API must show no placement group and no actor, and all CPUs must be free.  A killed sweep is run again.  It
must end with the trials of the uninterrupted one, none lost and none trained twice.
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

import ray
from ray.util.state import list_actors, list_placement_groups

sys.path.insert(0, str(Path(__file__).parent))
from record import machine, record

ROOT = Path(__file__).resolve().parent.parent

#: point and pass at which the driver is killed, and what the sweep is doing then.
KILLS: list[tuple[str, int, str]] = [
    ("tune.propose", 2, "before a trial is written down"),
    ("tune.proposed", 3, "after a trial is written down, before Ray Tune has it"),
    ("tune.promote", 1, "a trial may continue past its rung, and no file says so yet"),
    ("train.committed", 3, "a trial has saved a checkpoint at its rung, and has not said so"),
    ("train.step", 7, "trials are at work"),
    ("tune.stopped", 2, "the search is done; of the trials that stay at a rung one is written down"),
    ("tune.repeat", 1, "the search is done"),
    ("tune.report", 1, "everything is done but the report"),
]

#: Ray's own detached actors, one per cluster: the first Ray Data or Ray Train job starts them for all that follow.
_OF_THE_CLUSTER = "_AutoscalingCoordinatorActor"

TRAIN: dict[str, Any] = {
    "data": {
        "path": str(ROOT / "samples" / "emoji-google" / "pairs.parquet"),
        "batch_size": 16,
        "bundle_rows": 32,
        "texts": [[{"language": "en"}], [{"language": "zh"}]],
    },
    "model": {
        "architecture": str(ROOT / "pipelines" / "recipes" / "models" / "emoji.json"),
        "tokenizer": str(ROOT / "samples" / "models" / "translator"),
    },
    "optim": {"lr": 1e-3, "warmup_steps": 1},
    "train": {"steps": 4, "precision": "fp32"},
    "compute": {"workers": 1, "cpus_per_worker": 0.5, "threads": 1},
    "checkpoint": {"every_steps": 2},
    "evaluate": {
        "every_steps": 2,
        "max_images": 64,
        "datasets": {"google": {"path": str(ROOT / "samples" / "emoji-google" / "pairs.parquet")}},
    },
}
SWEEP: dict[str, Any] = {
    "name": "faults",
    "train": TRAIN,
    "space": {"temperature.init": {"grid": [0.02, 0.1, 0.5]}},
    "search": {"scheduler": "asha", "reduction": 3},
    "objectives": [{"metric": "google/image_retrieval_recall@10"}],
    "repeat": {"best": 1, "seeds": 1},
}
#: One short trial: for sweeps in a row.
SHORT: dict[str, Any] = SWEEP | {
    "train": TRAIN | {"train": {"steps": 2, "precision": "fp32"}},
    "space": {"temperature.init": {"grid": [0.05]}},
    "search": {"scheduler": "none"},
    "repeat": {"best": 0},
}


def connect() -> None:
    """Join the cluster as soon as it is up."""
    for _ in range(60):
        try:
            ray.init(address="auto", log_to_driver=False)
            return
        except ConnectionError:
            time.sleep(1)
    raise ConnectionError("the cluster did not start")


def start(folder: Path, name: str, recipe: dict[str, Any], **env: str) -> subprocess.Popen[bytes]:
    """`pairmill sweep` as a process."""
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(recipe | {"run_dir": str(folder / name)}))
    with (folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "pipelines", "sweep", str(path), "--json"],
            env=os.environ | {"RAY_ADDRESS": "auto"} | env,
            stdout=log,
            stderr=log,
            cwd=ROOT,
        )


def left_over(cpus: float, patience_s: float = 60.0) -> list[str]:
    """What remains of a sweep on the cluster, once the cluster has had time to notice that the driver is gone."""
    until = time.monotonic() + patience_s
    while True:
        groups = [g.placement_group_id for g in list_placement_groups(limit=1000) if g.state not in ("REMOVED",)]
        actors = [
            f"{a.class_name} {a.state}"
            for a in list_actors(limit=1000)
            if a.state != "DEAD" and a.class_name != _OF_THE_CLUSTER
        ]
        free = ray.available_resources().get("CPU", 0.0)
        found = [f"placement group {g}" for g in groups] + actors + ([f"{free} of {cpus} CPUs"] if free < cpus else [])
        if not found or time.monotonic() > until:
            return found
        time.sleep(1)


def trials(folder: Path, name: str) -> dict[str, tuple[Any, str]]:
    """Point and status of every trial of a sweep's report, by id."""
    report = json.loads((folder / name / "sweep.json").read_text())
    return {t["id"]: (t["point"], t["status"]) for t in report["trials"] if t["role"] == "search"}


def written(folder: Path, name: str) -> dict[str, int]:
    """When the metrics of the finished trials were last written, by id."""
    done = {}
    for trial in (folder / name / "trials").glob("*"):
        result = trial / "result.json"
        finished = result.exists() and (outcome := json.loads(result.read_text()))["step"] >= outcome["steps"]
        if finished or (trial / "stopped.json").exists():
            done[trial.name] = (trial / "metrics.jsonl").stat().st_mtime_ns if finished else 0
    return done


def steps_once(folder: Path, name: str) -> bool:
    """Whether no trial reports a step twice."""
    for metrics in (folder / name / "trials").glob("*/metrics.jsonl"):
        steps = [line["step"] for line in map(json.loads, metrics.read_text().splitlines()) if "loss" in line]
        if steps != sorted(set(steps)):
            return False
    return True


def killed(folder: Path, number: int, point: str, at: int, cpus: float, whole: dict[str, Any]) -> dict[str, Any]:
    """Kill the driver at a point, see what remains, resume, compare."""
    name = f"kill-{number}"
    faults = folder / f"{name}-faults"
    faults.mkdir()
    armed = {"PAIRMILL_FAULTS": f"{point}:kill-driver@{at}", "PAIRMILL_FAULTS_DIR": str(faults)}
    exit_killed = start(folder, name, SWEEP, **armed).wait()
    left = left_over(cpus)
    done = written(folder, name)
    exit_resumed = start(folder, name, SWEEP).wait()
    again = written(folder, name)
    found = trials(folder, name) if exit_resumed == 0 else {}
    return {
        "point": point,
        "killed_exit": exit_killed,
        "left_after_kill": left,
        "resumed_exit": exit_resumed,
        "left_after_resume": left_over(cpus),
        "same_trials": {k: v[0] for k, v in found.items()} == {k: v[0] for k, v in whole.items()},
        "all_done": all(status in ("finished", "stopped") for _, status in found.values()),
        "none_twice": all(again.get(k) == v for k, v in done.items()) and steps_once(folder, name),
    }


def good(result: dict[str, Any]) -> bool:
    """Whether a kill's result is what we promise."""
    ends = result["killed_exit"] == -signal.SIGKILL and result["resumed_exit"] == 0
    nothing = not result["left_after_kill"] and not result["left_after_resume"]
    return bool(ends and nothing and result["same_trials"] and result["all_done"] and result["none_twice"])


def interrupted_well(ends: dict[str, Any]) -> bool:
    """Whether ASHA stopped a trial, and Ctrl-C interrupted a sweep that resumed to the same trials."""
    stopped, broken_off = ends["normal, some stopped by asha"], ends["Ctrl-C"]
    asked = broken_off["exit"] == 0 and not broken_off["finished"]
    return bool(stopped["stopped"] and asked and broken_off["resumed_to_the_same_trials"])


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the cluster is stopped, too
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=len(KILLS), help="try the first so many (default all)")
    parser.add_argument("--row", type=int, default=20, help="sweeps in a row (default 20)")
    options = parser.parse_args()
    began = machine()
    cpus = float(os.cpu_count() or 1)
    figures: dict[str, Any] = {"cpus": cpus, "kills": [], "ends": {}}
    command = [sys.executable, "-m", "ray.scripts.scripts"]
    with tempfile.TemporaryDirectory(prefix="pairmill-sweeps-") as scratch:
        folder = Path(scratch)
        head = subprocess.Popen([*command, "start", "--head", f"--num-cpus={cpus:g}", "--block"])
        try:
            connect()
            assert start(folder, "whole", SWEEP).wait() == 0, (folder / "whole.log").read_text()[-3000:]
            whole = trials(folder, "whole")
            stopped = sum(status == "stopped" for _, status in whole.values())
            figures["ends"]["normal, some stopped by asha"] = {"stopped": stopped, "left": left_over(cpus)}
            print(figures["ends"], flush=True)

            process = start(folder, "interrupted", SWEEP)
            while not list((folder / "interrupted" / "trials").glob("*/metrics.jsonl")):
                assert process.poll() is None
                time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            exit_code = process.wait()
            left = left_over(cpus)
            report = json.loads((folder / "interrupted" / "sweep.json").read_text())
            figures["ends"]["Ctrl-C"] = {"exit": exit_code, "left": left, "finished": report["finished"]}
            assert start(folder, "interrupted", SWEEP).wait() == 0
            same = {k: v[0] for k, v in trials(folder, "interrupted").items()} == {k: v[0] for k, v in whole.items()}
            figures["ends"]["Ctrl-C"]["resumed_to_the_same_trials"] = same
            print(figures["ends"]["Ctrl-C"], flush=True)

            for number, (point, at, meaning) in enumerate(KILLS[: options.kills]):
                result = {"meaning": meaning, **killed(folder, number, point, at, cpus, whole)}
                figures["kills"].append(result)
                record("sweep_faults", figures, began)
                print("ok " if good(result) else "BAD", json.dumps(result), flush=True)
                if not good(result):
                    print((folder / f"kill-{number}.log").read_text()[-3000:], flush=True)

            free = []
            for number in range(options.row):
                assert start(folder, f"row-{number}", SHORT).wait() == 0, (folder / f"row-{number}.log").read_text()[
                    -3000:
                ]
                left = left_over(cpus)
                free.append(ray.available_resources().get("CPU", 0.0))
                print(f"sweep {number + 1} in a row: {free[-1]:g} CPUs free, left over: {left}", flush=True)
                figures["in_a_row"] = {"sweeps": len(free), "free_cpus": free}
                record("sweep_faults", figures, began)
        finally:
            ray.shutdown()
            head.terminate()
            head.wait()
    record("sweep_faults", figures, began)
    ends = all(not end["left"] for end in figures["ends"].values()) and interrupted_well(figures["ends"])
    in_a_row = all(cpu == cpus for cpu in figures["in_a_row"]["free_cpus"])
    passed = sum(map(good, figures["kills"]))
    print(f"{passed} of {len(figures['kills'])} kills resumed; nothing left over: {ends}; CPUs all free: {in_a_row}")
    sys.exit(not (ends and in_a_row and passed == len(figures["kills"])))


if __name__ == "__main__":
    main()
