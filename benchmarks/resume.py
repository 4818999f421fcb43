"""Kill the job at named points, resume it, and compare the product with that of an uninterrupted run.

    python benchmarks/resume.py              all points, about 25 minutes on 2 idle cores
    python benchmarks/resume.py --only commit.images

There are points in planning, fetching, decoding, the captioner and the translator, the cache of what they wrote, and in
the commit of the plan, images, filter, the default selection, recaption, translate and pairs.
For each fault point the job starts as its own process with that point armed.  The point kills its own process (a worker
or an actor) or the driver (`kill-driver`).  Then the job is run again until it ends.  The benchmark shows whether
`pairs/` equals that of an uninterrupted run byte for byte, and how many URLs of shards that were committed at the kill
were requested again (the server counts).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pairmill.store import Store
from pipelines.demo import RECIPE
from pipelines.demo_rows import demo_rows
from pipelines.demo_server import demo_server

sys.path.insert(0, str(Path(__file__).parent))
from record import record

ROWS = 120
SHARD_ROWS = 20
#: Points that only a job with a captioner and a translator passes; the others are tried without, in half the time.
WITH_MODELS = (
    "engine.",
    "generation.",
    "commit.columns/recaption",
    "commit.columns/translate",
    "commit.pairs",
    "report.",
)
WITHOUT_MODELS = ("recaption.enabled=false", "translate.enabled=false")

#: point, action, pass.  The passes are spread so that some shards are committed before, and some are not.
POINTS: list[tuple[str, str, int]] = [
    ("commit.plan.data.before_rename", "kill-driver", 2),
    ("plan.commit.before_rename", "kill-driver", 1),
    ("fetch.request", "kill", 40),
    ("fetch.request", "kill-driver", 90),
    ("decode.job", "kill", 30),
    ("commit.images.data.before_write", "kill-driver", 2),
    ("commit.images.data.before_rename", "kill", 2),
    ("commit.images.data.after_rename", "kill-driver", 3),
    ("commit.images.manifest.before_rename", "kill-driver", 4),
    ("commit.images.manifest.after_rename", "kill-driver", 2),
    ("commit.columns/filter.data.before_rename", "kill-driver", 3),
    ("commit.columns/filter.manifest.before_rename", "kill", 3),
    ("barrier.deduplicate", "kill-driver", 1),
    ("commit.selections/default.data.after_rename", "kill-driver", 2),
    ("engine.recaption", "kill", 2),
    ("engine.recaption", "kill-driver", 3),
    ("commit.columns/recaption.data.after_rename", "kill-driver", 2),
    ("engine.answered", "kill", 3),
    ("generation.before_rename", "kill-driver", 5),
    ("engine.translate", "kill", 2),
    ("commit.columns/translate.manifest.before_rename", "kill-driver", 3),
    ("commit.pairs.data.before_rename", "kill-driver", 2),
    ("commit.pairs.manifest.before_rename", "kill", 1),
    ("report.write", "kill-driver", 1),
]


class Bench:
    """A server, an input list, and a recipe in a folder of its own."""

    def __init__(self, folder: Path, base_url: str) -> None:
        self.folder, self.base_url = folder, base_url
        rows = demo_rows(base_url)
        plain = rows.filter(pc.equal(rows["case"], "plain")).slice(0, ROWS - 20)
        special = rows.filter(pc.is_in(rows["case"], pa.array(["missing", "html", "copy", "reencoded", "redirect"])))
        pq.write_table(pa.concat_tables([plain, special.slice(0, 20)]), folder / "urls.parquet")

    def run(self, name: str, *more: str, **armed: str) -> int:
        """The job as a process; its exit code, or minus the signal that ended it."""
        command = [sys.executable, "-m", "pipelines", "curate", str(RECIPE), *self.overrides(name), *more, "--json"]
        with (self.folder / f"{name}.log").open("ab") as log:
            done = subprocess.run(command, env=os.environ | armed, stdout=log, stderr=log, check=False)
        _wait_for_the_cluster_to_be_gone()
        return done.returncode

    def overrides(self, name: str) -> list[str]:
        """The demo's recipe, cut into small shards and small parts."""
        return [
            f"run_dir={self.folder / name}",
            f"input.path={self.folder / 'urls.parquet'}",
            f"shards.rows_per_shard={SHARD_ROWS}",
            "pack.rows_per_part=50",
            "recaption.prompts={short: short}",
        ]

    def counts(self) -> dict[str, int]:
        """Requests by path so far."""
        with urllib.request.urlopen(f"{self.base_url}/_count") as answer:
            return dict(json.load(answer))

    def committed_paths(self, name: str) -> set[str]:
        """The paths of all URLs whose shard's images are committed."""
        store = Store(str(self.folder / name))
        paths: set[str] = set()
        for shard in store.index("images"):
            urls = store.read_table(f"plan/shard-{shard:06d}.parquet", ["url"])["url"].to_pylist()
            paths |= {urlsplit(url).path for url in urls}
        return paths

    def product(self, name: str) -> dict[str, bytes]:
        """Every file of the product, by its path."""
        root = self.folder / name / "pairs"
        return {str(f.relative_to(root)): f.read_bytes() for f in sorted(root.rglob("*")) if f.is_file()}


def _wait_for_the_cluster_to_be_gone() -> None:
    # A killed driver's cluster ends by itself a moment later; a snapshot of the server's counts must come after that.
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        running = psutil.process_iter(["name", "status"])
        if not any(p.info["name"] in _RAY and p.info["status"] != psutil.STATUS_ZOMBIE for p in running):
            return
        time.sleep(0.2)
    raise RuntimeError("a Ray cluster is still running a minute after its driver ended")


_RAY = ("raylet", "gcs_server")


def variant(point: str) -> tuple[str, ...]:
    """The overrides of the job on which a point is tried."""
    return () if point.startswith(WITH_MODELS) else WITHOUT_MODELS


def try_point(
    bench: Bench, number: int, point: str, action: str, at: int, expected: dict[str, bytes]
) -> dict[str, Any]:
    """Kill at one point, resume, compare."""
    name = f"run-{number:02d}"
    faults = bench.folder / f"{name}-faults"
    faults.mkdir()
    began = time.monotonic()
    killed = bench.run(name, *variant(point), PAIRMILL_FAULTS=f"{point}:{action}@{at}", PAIRMILL_FAULTS_DIR=str(faults))
    passes = faults / f"{point.replace('/', '|')}.passes"
    fired = passes.exists() and passes.stat().st_size >= at
    committed = bench.committed_paths(name)
    before = bench.counts()
    resumed = killed if killed == 0 else bench.run(name, *variant(point))
    after = bench.counts()
    product = bench.product(name) if resumed == 0 else {}
    result = {
        "point": point,
        "action": action,
        "pass": at,
        "fired": fired,
        "killed_exit": killed,
        "resumed_exit": resumed,
        "shards_committed_at_kill": len(committed) // SHARD_ROWS if killed else None,
        "committed_urls_fetched_again": sum(after.get(p, 0) > before.get(p, 0) for p in committed),
        "identical": product == expected,
        "differs": sorted(name for name in product.keys() | expected.keys() if product.get(name) != expected.get(name)),
        "seconds": round(time.monotonic() - began, 1),
    }
    shutil.rmtree(bench.folder / name, ignore_errors=True)
    return result


def good(result: dict[str, Any]) -> bool:
    """Whether one point's result is what we promise."""
    expected_exit = -signal.SIGKILL if result["action"] == "kill-driver" else 0
    return bool(
        result["fired"]
        and result["killed_exit"] == expected_exit
        and result["resumed_exit"] == 0
        and result["identical"]
        and result["committed_urls_fetched_again"] == 0
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="points that begin so")
    chosen = parser.parse_args().only
    results = []
    with tempfile.TemporaryDirectory(prefix="pairmill-resume-") as folder, demo_server() as base_url:
        bench = Bench(Path(folder), base_url)
        expected = {}
        for number, more in enumerate({variant(point) for point, _, _ in POINTS if point.startswith(chosen)}):
            code = bench.run(f"whole-{number}", *more)
            assert code == 0, (Path(folder) / f"whole-{number}.log").read_text()[-3000:]
            expected[more] = bench.product(f"whole-{number}")
        for number, (point, action, at) in enumerate(POINTS):
            if not point.startswith(chosen):
                continue
            result = try_point(bench, number, point, action, at, expected[variant(point)])
            results.append(result)
            if not chosen:
                record("resume", {"passed": sum(map(good, results)), "tried": len(results), "results": results})
            verdict = "ok " if good(result) else "BAD"
            print(f"{verdict} {action:<12} {point:<52} pass {at:<4} {result['seconds']:>6} s", flush=True)
            if not good(result):
                print(
                    json.dumps(result),
                    (Path(folder) / f"run-{number:02d}.log").read_text()[-3000:],
                    sep="\n",
                    flush=True,
                )
    passed = sum(map(good, results))
    print(f"{passed} of {len(results)} kills resumed to the identical product, no committed URL fetched again")
    sys.exit(passed != len(results))


if __name__ == "__main__":
    main()
