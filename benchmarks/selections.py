"""Compare seven ways to curate by trained retrieval, over one pixel store: no request, and no image is touched.

    python benchmarks/selections.py              about 15 minutes on 2 idle cores

Curates the demo's URLs from its server, then runs `sweep-selections.yaml` while the server keeps running and counts
requests.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from record import machine, record, table

from pipelines.demo_rows import demo_rows
from pipelines.demo_server import demo_server

ROOT = Path(__file__).resolve().parent.parent
RECIPES = ROOT / "pipelines" / "recipes"


def run(*command: str) -> dict[str, Any]:
    """A pairmill command as a process; its JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", *command, "--json"], stdout=subprocess.PIPE, check=True, text=True, cwd=ROOT
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def requests(base_url: str) -> int:
    """Requests that the server has answered so far, this one not counted."""
    with urllib.request.urlopen(f"{base_url}/_count") as answer:
        return sum(n for path, n in json.loads(answer.read()).items() if not path.startswith("/_"))


def files(folder: Path) -> dict[str, tuple[int, str]]:
    """When each file was written, and what it holds."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60, help="training steps of a trial (default 60)")
    steps = parser.parse_args().steps
    began = machine()
    with tempfile.TemporaryDirectory(prefix="pairmill-selections-") as scratch, demo_server() as base_url:
        folder = Path(scratch)
        pq.write_table(demo_rows(base_url), folder / "urls.parquet")
        curated = f"run_dir={folder / 'run'}", f"input.path={folder / 'urls.parquet'}"
        run("curate", str(RECIPES / "curate-demo.yaml"), *curated, "recaption.enabled=false", "translate.enabled=false")
        before, pixels = requests(base_url), {name: files(folder / "run" / name) for name in ("images", "pairs")}
        report = run(
            "sweep",
            str(RECIPES / "sweep-selections.yaml"),
            f"run_dir={folder / 'sweep'}",
            f"train.data.path={folder / 'run'}",
            f"train.train.steps={steps}",
        )
        asked = requests(base_url) - before
        same = {name: files(folder / "run" / name) == found for name, found in pixels.items()}
        selections = {}
        for name in {t["point"]["data.selection"] for t in report["trials"]}:
            manifests = (folder / "run" / "selections" / name / "_manifest").rglob("*.json")
            selections[name] = sum(json.loads(m.read_text())["stages"]["deduplicate"]["rows_kept"] for m in manifests)
    figures = {
        "requests_during_the_sweep": asked,
        "files_untouched": same,
        "statuses": sorted({t["status"] for t in report["trials"]}),
        "selections": [
            {
                "selection": entry["point"]["data.selection"],
                "rows": selections[entry["point"]["data.selection"]],
                **{k: entry[k] for k in ("mean", "low", "high", "runs", "tied_with_best")},
            }
            for entry in report["ranking"]
        ],
    }
    table(list(figures["selections"][0]), [list(entry.values()) for entry in figures["selections"]])
    print(f"requests: {asked}; files untouched: {same}")
    record("selections", figures, began)
    sys.exit(not (asked == 0 and all(same.values()) and len(figures["selections"]) >= 6))


if __name__ == "__main__":
    main()
