"""What Ray Data and the shard store cost: `pairmill curate` against the bare download stage in plain processes.

    python benchmarks/overhead.py           about 4 minutes on 2 cores

The bare side is only `curation.download.Download`, called on tables in memory, with results discarded.  It runs in one
process per core (each with one decoder) or in one process with one decoder per core, whichever is faster here.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import pyarrow as pa
from contenders import IMAGE, PER_HOST_CONCURRENCY, run_pairmill
from photos import photos
from record import WORK, machine, ratios, record, table
from server import serve

from curation.download import Download
from curation.images.stage import Inspect
from curation.stage import Runtime
from curation.web.config import DownloadConfig

#: What the issue asks for: the share of the bare stage's speed that may be lost.
BAR = 0.20

#: Rows per call, the same for both sides.
SHARD = 500


def bare(urls: Sequence[str], processes: int, decoders: int) -> float:
    """Images a second of the bare stage, from the start of the first process to the end of the last one."""
    context = multiprocessing.get_context("spawn")
    ready, results = context.Barrier(processes), context.Queue()
    share = PER_HOST_CONCURRENCY // processes
    workers = [
        context.Process(target=_work, args=(list(urls[at::processes]), decoders, share, ready, results))
        for at in range(processes)
    ]
    for worker in workers:
        worker.start()
    spans = [results.get(timeout=600) for _ in workers]
    for worker in workers:
        worker.join()
    done = sum(images for images, _, _ in spans)
    if done != len(urls):
        raise RuntimeError(f"the bare stage got {done} of {len(urls)} images\nfix: see its errors above")
    return float(done / (max(end for _, _, end in spans) - min(begin for _, begin, _ in spans)))


def _work(urls: list[str], decoders: int, concurrency: int, ready: Any, results: Any) -> None:
    config = DownloadConfig(allow_networks=("127.0.0.0/8",), per_host_concurrency=concurrency)
    stage = Download(config)
    stage.inner = (Inspect(IMAGE),)
    stage.setup(Runtime(decoders=decoders))
    stage(_rows(urls[: 8 * decoders]))  # imports, decoder processes, connections
    ready.wait(timeout=300)
    begin = time.time()
    images = sum(_images(stage(_rows(urls[at : at + SHARD]))) for at in range(0, len(urls), SHARD))
    end = time.time()
    stage.close()
    results.put((images, begin, end))


def _rows(urls: list[str]) -> pa.Table:
    live = pa.nulls(len(urls), pa.string())
    return pa.table({"url": urls, "drop_stage": live, "drop_reason": live})


def _images(rows: pa.Table) -> int:
    return int(rows["drop_reason"].null_count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000, help="URLs of one run (default 5000)")
    parser.add_argument("--rounds", type=int, default=3, help="alternations (default 3)")
    options = parser.parse_args()

    cores = os.cpu_count() or 1
    layouts = {"a process a core": (cores, 1), "one process": (1, cores)}
    speeds: dict[str, list[float]] = {name: [] for name in (*layouts, "pairmill", "pairmill, with its actors' start")}
    files = photos(WORK / "photos", 2000)
    began = machine()
    with serve(WORK / "photos", WORK / "nginx") as server:
        urls = server.urls(files, options.images)
        for number in range(options.rounds):
            for name, (processes, decoders) in layouts.items():
                speeds[name].append(bare(urls, processes, decoders))
            run = run_pairmill(urls, WORK / "pairmill", [f"shards.rows_per_shard={SHARD}"])
            speeds["pairmill"].append(run.steady)
            speeds["pairmill, with its actors' start"].append(run.reported)
            print(f"round {number + 1}:", ", ".join(f"{n} {s[-1]:.1f}" for n, s in speeds.items()), flush=True)

    fastest = max(layouts, key=lambda name: median(speeds[name]))
    against = {name: ratios(speeds[name], speeds[fastest]) for name in speeds if name not in layouts}
    lost = 1 - against["pairmill"]["median"]
    print(f"\n{options.images} images; bare: the download stage in {fastest}; load before: {began['load_before']}")
    table(
        ["images/s", "median", "share of the bare stage"],
        [[name, median(s), f"{median(s) / median(speeds[fastest]):.2f}"] for name, s in speeds.items()],
    )
    print(f"overhead: {100 * lost:.0f} % (bar: {100 * BAR:.0f} %)")
    figures = {
        "images": options.images,
        "overhead": round(lost, 3),
        "bar": BAR,
        "bare_is": fastest,
        "share_of_bare": against,
        "images_per_second": {name: [round(s, 1) for s in found] for name, found in speeds.items()},
    }
    record("overhead", figures, began)


if __name__ == "__main__":
    main()
