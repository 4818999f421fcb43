"""Families of duplicates over partitions: time and memory by rows, in one process at a time and on Ray.

    python benchmarks/components.py --rows 100000 300000 1000000 --edges-per-row 1        about a minute on two cores
    python benchmarks/components.py --rows 1000000 --edges-per-row 10 --name components_dense

Edges are made up: half of the rows in families of 2 to 10 (by chains of two kinds), a path through a tenth of the rows
in an order that has nothing to do with their numbers, one star of a tenth, and random edges among the rest where there
are to be more.  They come in tables of 100,000.  Every size runs on a local Ray with the same number of cores, and
partitions of 100,000 edges, so that the largest has ten times as many as the smallest; peaks are of the driver and of
any worker.
"""

from __future__ import annotations

import argparse
import math
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import ray
from record import machine, record, table

from curation.duplicates.edges import EDGES
from curation.duplicates.families import families
from curation.duplicates.kinds import DeduplicateConfig, kinds_of
from pipelines.barrier import RayTasks

PIECE = 100_000
ROWS_PER_SHARD = 2000
KINDS = kinds_of(DeduplicateConfig())


def pairs(rows: int, edges: int, seed: int) -> np.ndarray[Any, Any]:
    """[edges, 3]: two rows, and the kind that links them."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(rows)
    half, tenth = rows // 2, rows // 10
    size = rng.integers(2, 11, half)
    begins = np.cumsum(size)
    begins = begins[begins < half]
    linked = np.setdiff1d(np.arange(1, half), begins)
    chains = np.stack([order[linked - 1], order[linked], rng.integers(1, 3, len(linked))], 1)
    path = order[half : half + tenth]
    path = np.stack([path[:-1], path[1:], np.full(tenth - 1, 2)], 1)
    star = order[half + tenth : half + 2 * tenth]
    star = np.stack([np.full(tenth - 1, star[0]), star[1:], np.full(tenth - 1, 1)], 1)
    rest = max(0, edges - len(chains) - len(path) - len(star))
    more = np.stack([*order[rng.integers(half + 2 * tenth, rows, (2, rest))], np.zeros(rest, np.int64)], 1)
    found = np.concatenate([chains, path, star, more])
    return found[rng.permutation(len(found))]


@ray.remote(num_cpus=1)  # type: ignore[untyped-decorator]
def piece(found: np.ndarray[Any, Any]) -> pa.Table:
    """Edges as the kinds give them; uid and score follow from the row's number."""
    columns: list[Any] = [found[:, 2].astype(np.int8)]
    for end in (found[:, 0], found[:, 1]):
        mixed = end.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        uid = pa.array([f"{one:032x}" for one in mixed.tolist()])
        columns += [uid, (end // ROWS_PER_SHARD).astype(np.int32), (end % ROWS_PER_SHARD).astype(np.int32)]
        columns.append((mixed % np.uint64(100)).astype(np.float64))
    return pa.table(columns, schema=EDGES)


@contextmanager
def peaks() -> Iterator[dict[str, float]]:
    """Highest resident size without shared memory, in MB: of this process, and of any worker of Ray."""
    found, done = {"driver": 0.0, "worker": 0.0}, threading.Event()

    def own(process: psutil.Process) -> float:
        info = process.memory_info()
        return (info.rss - info.shared) / 1e6

    def sample() -> None:
        while not done.wait(0.2):
            found["driver"] = max(found["driver"], own(psutil.Process()))
            for process in psutil.process_iter(["cmdline"]):
                try:
                    if (process.info["cmdline"] or [""])[0].startswith("ray::"):
                        found["worker"] = max(found["worker"], own(process))
                except psutil.Error:
                    continue

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def measured(rows: int, edges_per_row: float, partition: int) -> dict[str, Any]:
    found = pairs(rows, int(rows * edges_per_row), seed=rows)
    edges, total = [piece.remote(found[at : at + PIECE]) for at in range(0, len(found), PIECE)], len(found)
    del found
    ray.wait(edges, num_returns=len(edges), fetch_local=False)
    partitions = 1 + total // partition
    with peaks() as peak:
        before = psutil.Process().memory_info()
        began = time.perf_counter()
        members = families(edges, KINDS, partitions, RayTasks())
        counts = ray.get([count.remote(one) for one in members])
        seconds = time.perf_counter() - began
    return {
        "rows": rows,
        "edges": total,
        "partitions": partitions,
        "rows in families": sum(counts),
        "seconds": round(seconds, 2),
        "driver peak MB": round(peak["driver"]),
        "driver before MB": round((before.rss - before.shared) / 1e6),
        "worker peak MB": round(peak["worker"]),
    }


@ray.remote(num_cpus=1)  # type: ignore[untyped-decorator]
def count(members: pa.Table) -> int:
    """How many rows a table has."""
    return len(members)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 300_000, 1_000_000])
    parser.add_argument("--edges-per-row", type=float, default=1.0)
    parser.add_argument("--partition", type=int, default=100_000, help="edges of a partition")
    parser.add_argument("--name", default="components")
    asked = parser.parse_args()
    began = machine()
    ray.init(address="local", num_cpus=os.cpu_count(), include_dashboard=False, log_to_driver=False)
    measured(20_000, asked.edges_per_row, asked.partition)  # workers start, modules load
    runs = [measured(rows, asked.edges_per_row, asked.partition) for rows in asked.rows]
    ray.shutdown()
    table(list(runs[0]), [list(one.values()) for one in runs])
    figures: dict[str, Any] = {"runs": runs}
    if len(runs) > 1:
        least, most = runs[0], runs[-1]
        grown = math.log(most["seconds"] / least["seconds"]) / math.log(most["edges"] / least["edges"])
        figures["growth exponent"] = round(grown, 3)
        print("growth exponent", figures["growth exponent"])
    record(asked.name, figures, began)


if __name__ == "__main__":
    main()
