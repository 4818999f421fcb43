"""Curate two thirds of the demo's list, extend by the last third, and compare with the whole list curated at once.

    python benchmarks/extend.py              whole list, twelve kills, captions; about 15 minutes on 2 idle cores
    python benchmarks/extend.py --kills 0    without the kills

It shows whether every input row has the same fate and `pairs/` holds the same rows in all columns; how many URLs of the
first two thirds were requested again (the server counts); which files of the run were touched; whether an extension
that is killed at a named point and repeated ends in the same bytes; and whether captions are made for changed shards
only.
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
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.results.rows import write_rows
from curation.schema import RETRYABLE, set_columns
from pairmill.store import Store
from pipelines.demo import RECIPE
from pipelines.demo_rows import demo_rows
from pipelines.demo_server import demo_server

sys.path.insert(0, str(Path(__file__).parent))
from record import machine, record

#: point and pass; each kills the driver of an extension.
KILLS: list[tuple[str, int]] = [
    ("commit.plan.data.before_rename", 3),
    ("commit.plan.manifest.after_rename", 2),
    ("extend.commit.before_rename", 1),
    ("extend.commit.after_rename", 1),
    ("commit.columns/common_texts-10.data.after_rename", 2),
    ("common_texts.commit.before_rename", 1),
    ("fetch.request", 60),
    ("commit.images.manifest.before_rename", 3),
    ("commit.columns/filter.data.after_rename", 4),
    ("barrier.deduplicate", 1),
    ("commit.selections/default.manifest.before_rename", 5),
    ("commit.pairs.data.before_rename", 1),
]

#: A variable that the processes of a job inherit, by which they are recognised.
_MARK = "PAIRMILL_BENCHMARK"

Files = dict[str, tuple[bytes, int]]


class Bench:
    """A server, the demo's list in two parts and whole, and runs in a folder."""

    def __init__(self, folder: Path, base_url: str, rows: pa.Table) -> None:
        self.folder, self.base_url = folder, base_url
        cut = len(rows) * 2 // 3
        self.first, self.last = rows.slice(0, cut), rows.slice(cut)
        for name, part in (("whole", rows), ("first", self.first), ("last", self.last)):
            pq.write_table(part, folder / f"{name}.parquet")

    def curate(self, run: str, path: str, *more: str) -> float:
        """The job over one list as a process; its seconds."""
        overrides = [f"run_dir={self.folder / run}", f"input.path={self.folder / path}.parquet", *more]
        return self._run(run, "curate", str(RECIPE), "shards.rows_per_shard=20", "pack.rows_per_part=60", *overrides)[0]

    def extend(self, run: str, **armed: str) -> tuple[float, int]:
        """The extension of a run by the last third as a process; its seconds and exit code."""
        return self._run(run, "extend", str(self.folder / run), str(self.folder / "last.parquet"), **armed)

    def _run(self, run: str, *words: str, **armed: str) -> tuple[float, int]:
        began = time.monotonic()
        with (self.folder / f"{run}.log").open("ab") as log:
            command = [sys.executable, "-m", "pipelines", *words, "--json"]
            env = os.environ | {_MARK: str(self.folder)} | armed
            code = subprocess.run(command, env=env, stdout=log, stderr=log, check=False).returncode
        seconds = time.monotonic() - began
        self._wait_for_its_cluster_to_be_gone()
        if code and not armed:
            raise RuntimeError((self.folder / f"{run}.log").read_text()[-3000:])
        return round(seconds, 1), code

    def _wait_for_its_cluster_to_be_gone(self) -> None:
        # A killed driver's cluster ends by itself a moment later; the server's counts are only whole after that.
        deadline = time.monotonic() + 60
        while any(_is_of(process, str(self.folder)) for process in psutil.process_iter()):
            if time.monotonic() > deadline:
                raise RuntimeError("the Ray cluster is still running a minute after its driver ended")
            time.sleep(0.2)

    def forget_requests(self) -> None:
        """Reset the server's counts, and make it busy and flaky once again."""
        urllib.request.urlopen(urllib.request.Request(f"{self.base_url}/_reset", method="POST")).close()

    def old_urls_asked(self) -> tuple[int, int]:
        """How many URLs that only the first two thirds have were requested, and how many such URLs there are."""
        with urllib.request.urlopen(f"{self.base_url}/_count") as answer:
            asked = Counter(json.load(answer))
        old = _paths(self.first) - _paths(self.last)
        return len(old & asked.keys()), len(old)

    def files(self, run: str) -> Files:
        """Every file of a run: its bytes, and when it was written."""
        root = self.folder / run
        found = (f for f in root.rglob("*") if f.is_file())
        return {str(f.relative_to(root)): (f.read_bytes(), f.stat().st_mtime_ns) for f in found}

    def pairs(self, run: str) -> pa.Table:
        """The product, by uid."""
        return pq.read_table(sorted((self.folder / run / "pairs").glob("part-*.parquet"))).sort_by("uid")

    def fates(self, run: str) -> pa.Table:
        """What became of every input row, in the order of the input."""
        path = self.folder / f"{run}-rows.parquet"
        write_rows(Store(str(self.folder / run)), path)
        return pq.read_table(path)


def _settled(fates: pa.Table) -> pa.Table:
    """Fates without what differs between any two runs: which of the failures that may pass a row met, and its text."""
    passes = pc.is_in(fates["status"], pa.array([status.value for status in RETRYABLE]))
    alike = {name: pc.if_else(passes, "a failure that may pass", fates[name]) for name in ("status", "drop_reason")}
    alike["http_status"] = pc.if_else(passes, pa.scalar(None, pa.int16()), fates["http_status"])
    return set_columns(fates, alike).drop_columns(["error"])


def _is_of(process: psutil.Process, mark: str) -> bool:
    """Whether a process runs a cluster that this benchmark started, and no other cluster of this machine."""
    try:
        running = process.name() in ("raylet", "gcs_server") and process.status() != psutil.STATUS_ZOMBIE
        return running and process.environ().get(_MARK) == mark
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def _paths(rows: pa.Table) -> set[str]:
    found = {urlsplit(url).path for url in rows["url"].to_pylist()}
    return found | {path.replace("/redirect/", "/images/") for path in found}  # where a redirect leads


def _touched(before: Files, now: Files, folder: str) -> list[int]:
    """How many data files of a table changed, and how many there were."""
    held = [n for n in before if n.startswith(f"{folder}/") and n.endswith(".parquet") and "_manifest" not in n]
    return [sum(now.get(name) != before[name] for name in held), len(held)]


def compare(bench: Bench) -> dict[str, Any]:
    """The extended run against the whole list at once."""
    off = ("recaption.enabled=false", "translate.enabled=false")
    bench.forget_requests()
    at_once = bench.curate("whole", "whole", *off)
    bench.forget_requests()
    first = bench.curate("first", "first", *off)
    shutil.copytree(bench.folder / "first", bench.folder / "extended")
    before = bench.files("extended")
    bench.forget_requests()
    extension, _ = bench.extend("extended")
    asked, old = bench.old_urls_asked()
    now = bench.files("extended")
    found, expected = bench.fates("extended"), bench.fates("whole")
    pairs, whole = bench.pairs("extended"), bench.pairs("whole")
    ours, theirs = Counter(found["drop_reason"].to_pylist()), Counter(expected["drop_reason"].to_pylist())
    old_rows = found.slice(0, len(bench.first))["drop_reason"].to_pylist()
    old_before = bench.fates("first")["drop_reason"].to_pylist()
    return {
        "rows": {"first": len(bench.first), "added": len(bench.last), "kept": len(pairs)},
        "fates_equal": _settled(found).equals(_settled(expected)),
        "pairs_equal": pairs.equals(whole),
        "drops": {str(reason): [ours[reason], theirs[reason]] for reason in sorted(theirs | ours, key=str)},
        "old_rows_whose_fate_changed": sum(a != b for a, b in zip(old_rows, old_before, strict=True)),
        "old_urls_asked_for_again": asked,
        "old_urls": old,
        # What a row of the last third has in common with the first two: its URL, under another text.
        "urls_in_both": len(_paths(bench.first) & _paths(bench.last)),
        "old_files_touched_of": {
            table: _touched(before, now, table)
            for table in ("plan", "images", "columns/filter", "columns/common_texts-10", "selections/default", "pairs")
        },
        "seconds": {"at_once": at_once, "first": first, "extension": extension},
    }


def kill(bench: Bench, number: int, point: str, at: int, expected: dict[str, bytes]) -> dict[str, Any]:
    """An extension killed at one point and repeated."""
    name = f"killed-{number:02d}"
    shutil.copytree(bench.folder / "first", bench.folder / name)
    faults = bench.folder / f"{name}-faults"
    faults.mkdir()
    bench.forget_requests()
    armed = {"PAIRMILL_FAULTS": f"{point}:kill-driver@{at}", "PAIRMILL_FAULTS_DIR": str(faults)}
    _, code = bench.extend(name, **armed)
    bench.extend(name)
    asked, _ = bench.old_urls_asked()
    identical = product(bench.folder / name) == expected
    shutil.rmtree(bench.folder / name)
    return {
        "point": point,
        "pass": at,
        "killed": code == -signal.SIGKILL,
        "identical": identical,
        "old_urls_asked_for_again": asked,
    }


def product(run: Path) -> dict[str, bytes]:
    """Every file of the product and of the plan but plan.json, which says when the list was written."""
    found = [*(run / "pairs").rglob("*"), *(run / "plan").rglob("shard-*")]
    return {str(f.relative_to(run)): f.read_bytes() for f in found if f.is_file()}


def captions(bench: Bench) -> dict[str, Any]:
    """Which shards are captioned again: those whose selection changed."""
    bench.curate("captioned", "first", "translate.enabled=false", "recaption.prompts={short: short}")
    store = Store(str(bench.folder / "captioned"))
    before, selected = bench.files("captioned"), store.index("selections/default")
    seconds, _ = bench.extend("captioned")
    now = bench.files("captioned")
    changed = {shard for shard, entry in selected.items() if store.index("selections/default")[shard][1] != entry[1]}
    names = {shard: f"columns/recaption/shard-{shard:06d}.parquet" for shard in selected}
    again = {shard for shard, name in names.items() if now[name] != before[name]}
    return {
        "old_shards": len(selected),
        "selection_changed": len(changed),
        "captioned_again": len(again),
        "are_the_same": again == changed,
        "old_parts_touched_of": _touched(before, now, "pairs"),
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=len(KILLS), help="how many of the points to kill at")
    chosen = KILLS[: parser.parse_args().kills]
    began = machine()
    with tempfile.TemporaryDirectory(prefix="pairmill-extend-") as folder, demo_server() as base_url:
        bench = Bench(Path(folder), base_url, demo_rows(base_url))
        compared = compare(bench)
        print(json.dumps(compared, indent=1), flush=True)
        expected = product(bench.folder / "extended")
        killed = []
        for number, (point, at) in enumerate(chosen):
            killed.append(kill(bench, number, point, at, expected))
            print(json.dumps(killed[-1]), flush=True)
        captioned = captions(bench)
        print(json.dumps(captioned, indent=1), flush=True)
    good = [k for k in killed if k["killed"] and k["identical"] and not k["old_urls_asked_for_again"]]
    passed = bool(
        compared["fates_equal"]
        and compared["pairs_equal"]
        and not compared["old_urls_asked_for_again"]
        and len(good) == len(killed)
        and captioned["are_the_same"]
    )
    figures = {"passed": passed, **compared, "kills": {"passed": len(good), "tried": len(killed), "results": killed}}
    record("extend", {**figures, "captions": captioned}, began)
    sys.exit(not passed)


if __name__ == "__main__":
    main()
