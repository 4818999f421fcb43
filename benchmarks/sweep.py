"""The demo's sweep with ASHA against the same grid trained to the end, and whether the best recipe repeats its result.

    pairmill demo; python benchmarks/sweep.py              about 35 minutes on 2 idle cores

Bars: ASHA's best point is within the interval of the grid's best (95 %, over seeds) after at most 40 % of the grid's
training steps; the sweep, repeats included, ends in less than 15 minutes; `pairmill train best-recipe.yaml` gives the
metrics of its trial exactly.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from record import WORK, machine, record, table

RECIPE = "pipelines/recipes/sweep-demo.yaml"
BAR_STEPS, BAR_MINUTES = 0.4, 15.0


def sweep(name: str, *overrides: str) -> tuple[dict[str, Any], float]:
    """`pairmill sweep` as a process, from nothing; its report and its minutes."""
    run_dir = WORK / f"sweep-{name}"
    shutil.rmtree(run_dir, ignore_errors=True)
    began = time.monotonic()
    command = [sys.executable, "-m", "pipelines", "sweep", RECIPE, f"run_dir={run_dir}", *overrides, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout), (time.monotonic() - began) / 60


def searched(report: dict[str, Any]) -> int:
    """Training steps of the search, repeats left out."""
    return sum(trial["steps"] for trial in report["trials"] if trial["role"] == "search")


def summary(report: dict[str, Any], minutes: float) -> dict[str, Any]:
    """The part of a report that is recorded."""
    statuses = [trial["status"] for trial in report["trials"] if trial["role"] == "search"]
    return {
        "minutes": round(minutes, 1),
        "trials": {status: statuses.count(status) for status in sorted(set(statuses))},
        "search_steps": searched(report),
        "all_steps": report["steps_total"],
        "best": report["ranking"][0],
        "tied_with": report["best"]["tied_with"],
    }


def reproduced(report: dict[str, Any]) -> bool:
    """Whether the best recipe, trained by itself, gives its trial's metrics to the last bit."""
    recipe = f"{report['run_dir']}/best-recipe.yaml"
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", "train", recipe, "--json"], stdout=subprocess.PIPE, check=True, text=True
    )
    wanted = {k: v for k, v in report["best"]["metrics"].items() if "/" in k}
    return bool(json.loads(done.stdout)["metrics"] == wanted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searched", type=Path, metavar="RUN", help="take this sweep, that ran in one go, for ASHA's")
    given = parser.parse_args().searched
    began = machine()
    if given is None:
        asha, minutes = sweep("asha")
    else:
        asha = json.loads((given / "sweep.json").read_text())
        minutes = asha["seconds_total"] / 60
    figures: dict[str, Any] = {"asha": summary(asha, minutes), "best_recipe_reproduced": reproduced(asha)}
    record("sweep", figures, began)
    print(json.dumps(figures, indent=1), flush=True)
    grid, minutes = sweep("grid", "search.scheduler=none", "repeat.best=1")
    figures["grid"] = summary(grid, minutes)
    best, reached = grid["ranking"][0], asha["ranking"][0]
    figures["share_of_steps"] = searched(asha) / searched(grid)
    figures["within_the_grids_interval"] = reached["mean"] >= best["low"]
    record("sweep", figures, began)
    lines = [(name, figures[name]) for name in ("asha", "grid")]
    table(
        ["search", "steps", "minutes", "best", "mean", "low", "high"],
        [
            [
                name,
                f["search_steps"],
                f["minutes"],
                f["best"]["trial"],
                *(f["best"][k] for k in ("mean", "low", "high")),
            ]
            for name, f in lines
        ],
    )
    print(f"steps: {figures['share_of_steps']:.0%} of the grid's; within: {figures['within_the_grids_interval']}")
    good = figures["share_of_steps"] <= BAR_STEPS and figures["within_the_grids_interval"]
    sys.exit(not (good and figures["best_recipe_reproduced"] and figures["asha"]["minutes"] < BAR_MINUTES))


if __name__ == "__main__":
    main()
