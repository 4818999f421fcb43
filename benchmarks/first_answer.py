"""Time to the first answer: an earlier build and this one, alternating, from the start of the command to its end.

    python benchmarks/first_answer.py --revision COMMIT       about 10 minutes on 2 cores, most of it the runs to read

It times a wrong recipe, a wrong data path and the commands that only read a run, each as a process of its own.  Both
builds use this Python; PYTHONPATH decides which one runs.  Each reads a run of its own: the demo's curation, made once.
Exits 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from contenders import await_no_ray
from record import machine, ratios, record, table

ROOT = Path(__file__).resolve().parent.parent
_RECIPES = "pipelines/recipes"


@dataclass(frozen=True)
class Case:
    """A command, what it must answer, and the share of the old build's time that it may take.

    arguments: RUN stands for a curated run, OUT for a folder to write into.
    """

    arguments: Sequence[str]
    exit_code: int
    says: str
    bar: float


CASES: Mapping[str, Case] = {
    "wrong recipe, curate": Case(("curate", f"{_RECIPES}/curate.yaml", "downlaod.retries=1"), 2, "download", 0.25),
    "wrong recipe, train": Case(("train", f"{_RECIPES}/train-demo.yaml", "trian.steps=3"), 2, "train", 0.25),
    "wrong recipe, sweep": Case(("sweep", f"{_RECIPES}/sweep-demo.yaml", "saerch.trials=3"), 2, "search", 0.25),
    "wrong data path, train": Case(
        ("train", f"{_RECIPES}/train-demo.yaml", "data.path=OUT/nowhere", "run_dir=OUT/run"), 2, "data.path", 0.25
    ),
    "rows": Case(("rows", "RUN", "--to", "OUT/rows.parquet"), 0, "rows written", 0.5),
    "report": Case(("report", "RUN"), 0, "rows kept", 0.5),
}


@dataclass
class Build:
    """A checkout, the curated run that it reads, and what its commands took: seconds, and seconds of a core."""

    folder: Path
    run: str
    out: Path
    wall_s: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in CASES})
    cpu_s: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in CASES})

    def time(self, name: str, *, keep: bool) -> None:
        """Run one case.  Raises RuntimeError if it does not answer as it must."""
        case = CASES[name]
        given = [word.replace("OUT", str(self.out)).replace("RUN", self.run) for word in case.arguments]
        before, began = os.times(), time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "pipelines", *given],
            cwd=self.folder,
            env=environment(self.folder, self.out),
            capture_output=True,
            text=True,
            check=False,
        )
        wall_s, after = time.perf_counter() - began, os.times()
        said = done.stdout + done.stderr
        if done.returncode != case.exit_code or case.says not in said:
            raise RuntimeError(f"{name} in {self.folder} ended with {done.returncode}:\n{said[-2000:]}")
        if keep:
            self.wall_s[name].append(wall_s)
            cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
            self.cpu_s[name].append(cpu_s)


def environment(build: Path, scratch: Path) -> dict[str, str]:
    """Import a build's modules once, so that they are compiled; the compiled files are kept out of the checkouts."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPATH": str(build), "PYTHONPYCACHEPREFIX": str(scratch / "compiled")}


def curated(build: Path, run: Path) -> str:
    """Curate the demo's URLs with a build, for its own commands to read."""
    await_no_ray()
    script = "import sys; from pipelines.demo import run_demo; run_demo(sys.argv[1], quiet=True)"
    command = [sys.executable, "-c", script, str(run)]
    subprocess.run(command, cwd=build, env=environment(build, run.parent), check=True, stdout=subprocess.DEVNULL)
    return str(run)


@contextmanager
def checkout(revision: str, folder: Path) -> Iterator[Path]:
    """The project as it was at a revision."""
    git = ("git", "-C", str(ROOT), "worktree")
    subprocess.run([*git, "add", "--quiet", "--detach", str(folder), revision], check=True)
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def commit(folder: Path) -> str:
    """The commit of a checkout."""
    said = subprocess.run(["git", "-C", str(folder), "describe", "--always", "--dirty"], capture_output=True, text=True)
    return said.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, metavar="FOLDER", help="a checkout of the build before")
    parser.add_argument("--revision", help="or its commit, which is then checked out")
    parser.add_argument("--base-run", metavar="RUN", help="a curated run that the build before can read")
    parser.add_argument("--run", metavar="RUN", help="a curated run that this build can read")
    parser.add_argument("--rounds", type=int, default=7, help="alternations (default 7)")
    options = parser.parse_args()
    if (options.base is None) == (options.revision is None):
        parser.error("give --base FOLDER or --revision COMMIT")

    began = machine()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pairmill-first-answer-")))
        base = options.base or stack.enter_context(checkout(options.revision, scratch / "base"))
        before = Build(base.resolve(), options.base_run or curated(base.resolve(), scratch / "run-before"), scratch)
        now = Build(ROOT, options.run or curated(ROOT, scratch / "run-now"), scratch)
        for number in range(options.rounds + 1):
            # The first round fills caches: compiled modules, pages of libraries.
            for name in CASES:
                for build in (before, now) if number % 2 else (now, before):
                    build.time(name, keep=number > 0)
            print(f"round {number} of {options.rounds}", flush=True)
        figures = compared(before, now)
    shown = [
        [
            name,
            *(found[key] for key in ("before_s", "now_s")),
            *(f"{found[key]:.2f}" for key in ("ratio", "cpu", "bar")),
        ]
        for name, found in figures.items()
    ]
    print(f"\nload before: {began['load_before']}")
    table(["seconds, medians", "before", "now", "ratio", "of CPU", "bar"], shown)
    held = all(found["ratio"] <= found["bar"] for found in figures.values())
    commits = {"before": commit(base) or options.revision, "now": commit(ROOT)}
    record("first_answer", {"rounds": options.rounds, "commits": commits, "held": held, "cases": figures}, began)
    sys.exit(not held)


def compared(before: Build, now: Build) -> dict[str, dict[str, Any]]:
    """Medians and ratios of each case."""
    figures: dict[str, dict[str, Any]] = {}
    for name, case in CASES.items():
        wall = ratios(now.wall_s[name], before.wall_s[name])
        cpu = ratios(now.cpu_s[name], before.cpu_s[name])
        figures[name] = {
            "before_s": round(median(before.wall_s[name]), 3),
            "now_s": round(median(now.wall_s[name]), 3),
            "ratio": wall["median"],
            "ratios": wall["each"],
            "cpu_before_s": round(median(before.cpu_s[name]), 3),
            "cpu_now_s": round(median(now.cpu_s[name]), 3),
            "cpu": cpu["median"],
            "bar": case.bar,
        }
    return figures


if __name__ == "__main__":
    main()
