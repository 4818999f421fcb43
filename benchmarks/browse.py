"""Look at a cluster with a browser: the Ray dashboard names jobs, stages and trials; reports ask nobody for anything.

    python benchmarks/browse.py [--keep FOLDER]            about 6 minutes on 2 idle cores; needs Chromium

A head with its dashboard on this machine; a curation and a sweep are submitted to it through the Jobs API.  While they
work, headless Chromium opens the dashboard's pages, which must show the names that our users know; afterwards it opens
`report.html` and `sweep.html` with no name resolution, where it must report no error and ask for nothing.  --keep: the
screenshots.  Exits 1 if anything does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from record import machine, record
from sweep_faults import SWEEP, TRAIN

from pipelines.demo_rows import demo_rows
from pipelines.demo_server import demo_server

ROOT = Path(__file__).resolve().parent.parent
ROWS = 120


def chromium() -> str:
    """The browser.  Raises SystemExit where there is none."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    raise SystemExit("Chromium is needed: apt install chromium")


def browse(url: str, *more: str, seconds: int = 15) -> tuple[str, str]:
    """What a page shows after some seconds of its own time, and what the browser logged."""
    with tempfile.TemporaryDirectory() as profile:
        command = [chromium(), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
        command += ["--window-size=1500,2200", "--enable-logging=stderr", f"--virtual-time-budget={1000 * seconds}"]
        done = subprocess.run([*command, *more, url], capture_output=True, text=True, check=False, timeout=120)
    return done.stdout, done.stderr


def missing(page: str, names: Iterable[str]) -> list[str]:
    """Which of the names a page does not show."""
    words = re.sub(r"<[^>]*>", " ", page)
    return [name for name in names if name not in words]


class Head:
    """A cluster of one node, and `pairmill submit` to it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.url = folder, "http://127.0.0.1:8265"
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {
            "RAY_AUTH_MODE": "disabled"  # on the loopback only; benchmarks/operate.py is about tokens
        }
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=2"]
        self.process = subprocess.Popen([*command, "--dashboard-host=127.0.0.1"], env=self.environment)

    def submit(self, kind: str, recipe: Path, *overrides: str) -> subprocess.Popen[bytes]:
        """`pairmill submit`, until the job ends."""
        command = [sys.executable, "-m", "pipelines", "submit", kind, str(recipe), *overrides, "--address", self.url]
        log = (self.folder / f"{kind}.log").open("wb")
        return subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, cwd=ROOT)

    def jobs(self) -> list[str]:
        """The ids of the jobs that work."""
        command = [sys.executable, "-m", "pipelines", "jobs", "--json", "--address", self.url]
        done = subprocess.run(command, env=self.environment, stdout=subprocess.PIPE, cwd=ROOT, text=True, check=False)
        found = json.loads(done.stdout)["jobs"] if done.returncode == 0 else []
        return [job["id"] for job in found if job["status"] == "RUNNING"]

    def seen(self, job: subprocess.Popen[bytes], pages: dict[str, list[str]], keep: Path, name: str) -> dict[str, Any]:
        """Open pages while a job works until each has shown all its names once."""
        left = {page: set(names) for page, names in pages.items()}
        running: list[str] = []
        while job.poll() is None and any(left.values()):
            running = self.jobs() or running
            for page in [page for page, names in left.items() if names]:
                if "JOB" in page and not running:
                    continue
                url = f"{self.url}/#/{page.replace('JOB', running[0] if running else '')}"
                shown, _ = browse(url, "--dump-dom")
                left[page] -= left[page] - set(missing(shown, left[page]))
                if not left[page]:
                    shot = keep / f"{name}-{page.replace('/', '-')}.png"
                    browse(url, f"--screenshot={shot}")
            time.sleep(1)
        return {"exit": job.wait(), "job": running, "not_seen": {page: sorted(names) for page, names in left.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="folder for the screenshots (default: they are not kept)")
    options = parser.parse_args()
    began = machine()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="pairmill-browse-") as name:
        folder = Path(name)
        keep = options.keep or folder
        keep.mkdir(parents=True, exist_ok=True)
        sweep = SWEEP | {
            "name": "looked-at",
            "train": TRAIN,
            "space": {"temperature.init": {"grid": [0.05, 0.2]}},
            "repeat": {"best": 0},
        }
        (folder / "sweep.yaml").write_text(json.dumps(sweep | {"run_dir": str(folder / "sweep")}))
        head = Head(folder)
        try:
            with demo_server() as address:
                pq.write_table(demo_rows(address).slice(0, ROWS), folder / "urls.parquet")
                keys = [f"run_dir={folder / 'curated'}", f"input.path={folder / 'urls.parquet'}"]
                while browse(head.url, "--dump-dom", seconds=2)[0].count("root") == 0:
                    time.sleep(1)
                curating = head.submit("curate", ROOT / "pipelines/recipes/curate-demo.yaml", *keys)
                pages = {"jobs": ["curate-"], "jobs/JOB": ["download", "rewrite"]}
                figures["curate"] = head.seen(curating, pages, keep, "curate")
            sweeping = head.submit("sweep", folder / "sweep.yaml")
            pages = {"jobs": ["sweep-"], "jobs/JOB": ["looked-at-000: read", "looked-at-001: read"]}
            figures["sweep"] = head.seen(sweeping, pages, keep, "sweep")
            for report in (folder / "curated" / "report.html", folder / "sweep" / "sweep.html"):
                offline = "--host-resolver-rules=MAP * ~NOTFOUND"
                page, log = browse(f"file://{report}", offline, f"--screenshot={keep / report.stem}.png")
                page, _ = browse(f"file://{report}", offline, "--dump-dom")
                complaints = [line for line in log.splitlines() if ":CONSOLE" in line or "ERR_" in line]
                asked = re.findall(r"(?:src|href)=\"(https?:[^\"]*)\"", page) if "<script src" in page else []
                figures[report.name] = {"complaints": complaints, "asked": asked, "characters": len(page)}
        finally:
            head.process.terminate()
            head.process.wait()
    record("browse", figures, began)
    print(json.dumps(figures, indent=1))
    jobs = all(
        figures[kind]["exit"] == 0 and not any(figures[kind]["not_seen"].values()) for kind in ("curate", "sweep")
    )
    reports = (figures["report.html"], figures["sweep.html"])
    sys.exit(not (jobs and all(not r["complaints"] and not r["asked"] and r["characters"] > 1000 for r in reports)))


if __name__ == "__main__":
    main()
