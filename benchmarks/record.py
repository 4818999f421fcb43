"""What every benchmark records: its figures, with the machine, versions, date and command."""

from __future__ import annotations

import json
import math
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import distributions
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import psutil

RESULTS = Path(__file__).resolve().parent / "results"

#: Where photographs, server files and runs are kept (ignored by git).
WORK = Path(__file__).resolve().parent.parent / "runs" / "benchmarks"

_PACKAGES = (
    *("pairmill", "ray", "img2dataset", "aiohttp", "pyarrow", "simplejpeg", "opencv-python-headless", "opencv-python"),
    *("albumentations", "numpy", "pillow"),
)


def machine() -> dict[str, Any]:
    """Cores, memory and load of this machine when the benchmark starts."""
    cpu = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "system": f"{platform.system()} {platform.release()}",
        # Above about 0.5, other processes use the cores, and the figures are worth little.
        "load_before": round(os.getloadavg()[0], 2),
    }


def versions() -> dict[str, str]:
    """Of Python, nginx, and the packages that matter to speed; those that are not installed are left out."""
    installed = {dist.name.lower(): dist.version for dist in distributions()}
    found = {"python": platform.python_version()} | {n: installed[n] for n in _PACKAGES if n in installed}
    if program := shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin"):
        said = subprocess.run([program, "-v"], capture_output=True, text=True, check=False).stderr
        found["nginx"] = said.strip().rpartition("/")[2]
    return found


def _without_place(argument: str) -> str:
    """An argument of the command; a path of this machine is only called PATH."""
    return "PATH" if Path(argument).is_absolute() else argument


def record(name: str, figures: Mapping[str, Any], began: Mapping[str, Any] | None = None) -> None:
    """Write `results/<name>.json`.  began: `machine()` as it was before the measurement, for the load it found."""
    RESULTS.mkdir(exist_ok=True)
    data = {
        "command": shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *map(_without_place, sys.argv[1:])]),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": began or machine(),
        "versions": versions(),
        **figures,
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n")
    print(f"\nkept in benchmarks/results/{name}.json")


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """Ratio of each alternation, and their median."""
    each = [a / b for a, b in zip(ours, theirs, strict=True)]
    return {"median": round(median(each), 3), "each": [round(r, 3) for r in each]}


def interval(values: Sequence[float]) -> dict[str, float]:
    """Mean, and the interval of 95 % by Student's t; without an end for a single value."""
    from scipy.stats import t as student  # few benchmarks need it, and it is slow to import

    half = student.ppf(0.975, len(values) - 1) * stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.inf
    return {"mean": mean(values), "low": mean(values) - half, "high": mean(values) + half}


def table(heading: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a small table: the first column to the left, numbers to the right."""
    cells = [[_spelled(c) for c in row] for row in (heading, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(heading))]
    for row in cells:
        print(row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)), sep="  ")


def _spelled(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.1f}" if abs(value) >= 1 else f"{value:.3f}"


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
