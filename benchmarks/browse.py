"""Look at a cluster with a browser: the Ray dashboard names jobs, stages and trials; reports load nothing from outside.

    python benchmarks/browse.py [--keep FOLDER]            about 6 minutes on 2 idle cores; needs Chromium

It starts a head with its dashboard on this machine and submits a curation and a sweep through the Jobs API.  While they
run, headless Chromium opens the dashboard's pages, which must show the names that our users know.  Afterwards it opens
`report.html` and `sweep.html`, which must cause no error, send no request and execute nothing that the captions hold.
--keep: the screenshots.  Exits 1 if anything does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from operate import free_ports
from playwright.sync_api import TimeoutError as BrowserTimeout
from playwright.sync_api import sync_playwright
from record import machine, record
from sweep_faults import SWEEP, TRAIN

from pipelines.demo_rows import demo_rows
from pipelines.demo_server import demo_server

ROOT = Path(__file__).resolve().parent.parent
ROWS = 120

#: What every third row's alt text ends with: the report must show it, not execute it.
OWNED = "owned by a caption"
HOSTILE = f"<script>document.title='{OWNED}'</script><img src=x onerror=\"document.title='{OWNED}'\">"


@contextmanager
def browser(*arguments: str) -> Iterator[Any]:
    """Headless Chromium, as installed on this machine, with more `arguments`.  Raises SystemExit if there is none."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        raise SystemExit("Chromium is needed: apt install chromium")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", *arguments])
        yield chromium
        chromium.close()


def shown(page: Any, url: str, sections: Sequence[str]) -> str:
    """The text of a dashboard page once these sections of it are unfolded."""
    page.goto(url)
    page.wait_for_timeout(4000)
    for section in sections:
        heading = page.get_by_text(section, exact=True)
        # Under load the page may be slow, so it is read again.
        with suppress(BrowserTimeout):
            if heading.count():
                heading.first.click()
                page.wait_for_timeout(1500)
    for size in page.get_by_label("Page Size").all():
        size.fill("100")
    page.wait_for_timeout(1500)
    return str(page.inner_text("body"))


class Head:
    """A cluster of one node, and `pairmill submit` to it."""

    def __init__(self, folder: Path) -> None:
        gcs, dashboard, agent, metrics = free_ports(4)
        self.folder, self.url = folder, f"http://127.0.0.1:{dashboard}"
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "RAY_AUTH_MODE": "disabled",  # on the loopback only; benchmarks/operate.py is about tokens
        }
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=2"]
        command += [f"--port={gcs}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"]
        self.process = subprocess.Popen([*command, f"--metrics-export-port={metrics}"], env=self.environment)

    def wait(self) -> None:
        """Until the dashboard answers; raises TimeoutError if it does not."""
        for _ in range(120):
            with suppress(OSError), urllib.request.urlopen(self.url):
                return
            time.sleep(1)
        raise TimeoutError(f"the cluster did not start; exit {self.process.poll()}")

    def submit(self, kind: str, recipe: Path, *overrides: str) -> subprocess.Popen[bytes]:
        """`pairmill submit`, until the job ends."""
        command = [sys.executable, "-m", "pipelines", "submit", kind, str(recipe), *overrides, "--address", self.url]
        log = (self.folder / f"{kind}.log").open("wb")
        return subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, cwd=ROOT)

    def jobs(self) -> list[str]:
        """The ids of the running jobs."""
        command = [sys.executable, "-m", "pipelines", "jobs", "--json", "--address", self.url]
        done = subprocess.run(command, env=self.environment, stdout=subprocess.PIPE, cwd=ROOT, text=True, check=False)
        found = json.loads(done.stdout)["jobs"] if done.returncode == 0 else []
        return [job["id"] for job in found if job["status"] == "RUNNING"]

    def seen(self, job: subprocess.Popen[bytes], names: Sequence[str], browser: Any, picture: Path) -> dict[str, Any]:
        """Look at the job's page while it runs, until it has shown all names."""
        left, running = set(names), ""
        page = browser.new_page(viewport={"width": 1500, "height": 2000})
        ended = False
        while left and not ended:
            ended = job.poll() is not None  # one more look then
            if not running:
                ids = self.jobs()
                listed = shown(page, f"{self.url}/#/jobs", []) if ids else ""
                running = ids[0] if ids and ids[0] in re.sub(r"\s", "", listed) else ""
                continue
            said = shown(page, f"{self.url}/#/jobs/{running}", ("Ray Data Overview", "Task Table"))
            if any(name in said for name in left):
                page.screenshot(path=picture, full_page=True)
            left -= {name for name in left if name in said}
        page.close()
        if job.wait() != 0:
            logs = "".join(log.read_text()[-3000:] for log in sorted(self.folder.glob("*.log")))
            raise SystemExit(f"the job failed:\n{logs}")
        return {"job": running, "not_seen": sorted(left)}


def report(browser: Any, path: Path, picture: Path) -> dict[str, Any]:
    """What a report requests from the network, and the errors of the browser."""
    page = browser.new_page(viewport={"width": 1280, "height": 1600})
    complaints: list[str] = []
    asked: list[str] = []
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"file://{path}")
    page.wait_for_timeout(1000)
    page.screenshot(path=picture, full_page=True)
    text, title = page.inner_text("body"), page.title()
    page.close()
    asked = [url for url in asked if not url.startswith(("file://", "data:"))]
    return {
        "complaints": complaints,
        "asked": asked,
        "characters": len(text),
        "hostile_shown": "<script>document.title" in text,
        "hostile_run": title == OWNED,
    }


def hostile(rows: pa.Table) -> pa.Table:
    """The rows, some of them with markup in their texts."""
    texts = [f"{text} {HOSTILE}" if n % 3 == 0 else text for n, text in enumerate(rows["text"].to_pylist())]
    return rows.set_column(rows.schema.get_field_index("text"), "text", pa.array(texts))


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the cluster is stopped, too
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
            with browser() as chromium:
                with demo_server() as address:
                    pq.write_table(hostile(demo_rows(address).slice(0, ROWS)), folder / "urls.parquet")
                    keys = [f"run_dir={folder / 'curated'}", f"input.path={folder / 'urls.parquet'}"]
                    head.wait()
                    job = head.submit("curate", ROOT / "pipelines/recipes/curate-demo.yaml", *keys)
                    stages = ["collect_", "edges_", "rewrite_"]  # the datasets, by segment of the job
                    figures["curate"] = head.seen(job, stages, chromium, keep / "curate.png")
                job = head.submit("sweep", folder / "sweep.yaml")
                trials = ["looked-at-000: read", "looked-at-001: read"]
                figures["sweep"] = head.seen(job, trials, chromium, keep / "sweep.png")
                for path in (folder / "curated" / "report.html", folder / "sweep" / "sweep.html"):
                    figures[path.name] = report(chromium, path, keep / f"{path.stem}-page.png")
        finally:
            head.process.terminate()
            head.process.wait()
    record("browse", figures, began)
    print(json.dumps(figures, indent=1))
    jobs = [figures["curate"], figures["sweep"]]
    reports = [figures["report.html"], figures["sweep.html"]]
    good = not any(job["not_seen"] for job in jobs) and reports[0]["hostile_shown"]
    good = good and not any(page["hostile_run"] for page in reports)
    sys.exit(not (good and all(not r["complaints"] and not r["asked"] and r["characters"] > 1000 for r in reports)))


if __name__ == "__main__":
    main()
