"""How fast near-duplicates are found among a million 64-bit hashes, against imagededup's two searches.

    python benchmarks/hamming.py        about five minutes

The hashes are those of pictures of which a fifth are copies of others, up to four bits apart.  pairmill's side is the
kind `near_duplicate_image`, its colours all equal: `keys`, the rows of a key brought together, `edges`.  It finds all
families.  imagededup (`find_duplicates`) asks for the neighbours of every hash, one by one: by default with a loop over
all of them in Cython, or by a BK-tree in Python.  So many queries are timed as take a minute, and the time of all
follows: each of the loop takes the same, and those of the tree are spread evenly.

That both find the same is compared in full over 5,000 hashes, and for the queries that were timed in each size.

The limit is the time that one core needs to read every key twice, once to sort it and once to compare it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from peers import interpreter
from record import WORK, machine, record, table
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from curation.duplicates.near_duplicate_image import NearDuplicateImage, NearDuplicateImageConfig

PEER = "imagededup==0.3.3.post2"
DISTANCE = 4
#: Keys that one call of `edges` gets, as in a task of pairmill's barrier (`pipelines.barrier.PARTITION_ROWS`).
PARTITION = 500_000
BLOCK = 50_000
#: Queries that are timed, by method and size; more take longer and say the same.
QUERIES = {"cython": {5_000: 5_000, 100_000: 200, 1_000_000: 20}, "bktree": {5_000: 5_000, 100_000: 100}}

Hashes = npt.NDArray[np.uint64]
Families = npt.NDArray[np.int64]


def hashes_of(count: int) -> Hashes:
    """Random hashes, of which a fifth are copies of others with up to four bits turned."""
    chance = np.random.default_rng(count)
    hashes = chance.integers(0, 1 << 64, count, dtype=np.uint64)
    copies = chance.permutation(count)[: count // 5]
    hashes[copies] = hashes[chance.integers(0, count, len(copies))]
    for _ in range(DISTANCE):
        turned = copies[chance.random(len(copies)) < 0.5]
        hashes[turned] ^= np.uint64(1) << chance.integers(0, 64, len(turned), dtype=np.uint64)
    return hashes


def families(hashes: Hashes) -> tuple[Families, float, float]:
    """The family of each hash, and the seconds, of the clock and of the processor, in which all pairs were found."""
    kind = NearDuplicateImage(NearDuplicateImageConfig(name="near_duplicate_image", max_distance=DISTANCE, min_bits=0))
    colours = pa.array([bytes(192)], pa.binary()).take(pa.array(np.zeros(len(hashes), np.int64)))
    rows = pa.table({"phash": hashes, "colours": colours}, schema=kind.columns)
    began, cpu = time.perf_counter(), time.process_time()
    keys = [kind.keys(rows.slice(at, BLOCK)) for at in range(0, len(rows), BLOCK)]
    row = np.concatenate([block["row"].to_numpy() + at * BLOCK for at, block in enumerate(keys)])
    key = np.concatenate([block["key"].to_numpy() for block in keys])
    partitions = 1 + len(key) // PARTITION
    part = (key.view(np.uint64) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(32)) % np.uint64(partitions)
    order = np.argsort(part.astype(np.uint16), kind="stable")
    bounds = np.searchsorted(part[order], np.arange(partitions + 1))
    left, right = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for begin, end in itertools.pairwise(bounds):
        some = order[begin:end]
        a, b = kind.edges(rows.take(pa.array(row[some])).append_column("key", pa.array(key[some])))
        left.append(row[some[a]])
        right.append(row[some[b]])
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    return connected(len(hashes), np.concatenate(left), np.concatenate(right)), seconds, cpu_seconds


def connected(count: int, left: npt.NDArray[np.int64], right: npt.NDArray[np.int64]) -> Families:
    graph = coo_array((np.ones(len(left), np.int8), (left, right)), shape=(count, count))
    found: Families = connected_components(graph, directed=False)[1].astype(np.int64)
    return found


def peer(python: Path, method: str, file: Path, count: int) -> dict[str, Any]:
    """What imagededup says of some queries, and from them of all."""
    script = Path(__file__).with_name("hamming_peer.py")
    queries = QUERIES[method][count]
    command = [str(python), str(script), method, str(file), str(queries), str(DISTANCE)]
    said: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    for clock in ("seconds", "cpu_seconds"):
        said[clock] = said[f"build_{clock}"] + said[f"search_{clock}"] / len(said["found"]) * count
    return said


def agree(hashes: Hashes, family: Families, found: list[tuple[int, list[int]]]) -> bool:
    """Whether what a peer found for its queries is right, and in the query's family.

    Right by all distances of these queries.  The flat hashes that pairmill would leave out are none (min_bits is 0).
    """
    for query, neighbours in found:
        near = np.flatnonzero(np.bitwise_count(hashes ^ hashes[query]) <= DISTANCE)
        if near.tolist() != neighbours or (family[near] != family[query]).any():
            return False
    return True


def same_families(family: Families, found: list[tuple[int, list[int]]]) -> bool:
    """Whether the neighbours of all hashes connect the same."""
    ends = np.array([(query, other) for query, others in found for other in others], np.int64)
    theirs = connected(len(family), *ends.T)
    return (
        len(set(zip(family.tolist(), theirs.tolist(), strict=True))) == int(family.max()) + 1 == int(theirs.max()) + 1
    )


def limit(hashes: Hashes) -> float:
    """Seconds to read all keys twice."""
    keys = np.tile(hashes, DISTANCE + 1)
    began = time.perf_counter()
    int(np.bitwise_xor.reduce(keys)) ^ int(np.bitwise_xor.reduce(keys))
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="+", default=[5_000, 100_000, 1_000_000], choices=QUERIES["cython"])
    arguments = parser.parse_args()
    rounds = arguments.rounds
    began = machine()
    python = interpreter("imagededup", [PEER], dependencies=False)
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", f"numpy=={np.__version__}"], check=True)
    figures: dict[str, Any] = {"peer": PEER, "distance": DISTANCE, "sizes": {}}
    families(hashes_of(1_000))  # so that modules are loaded
    for count in arguments.sizes:
        hashes = hashes_of(count)
        file = WORK / f"hashes-{count}.npy"
        np.save(file, hashes)
        methods = [method for method in QUERIES if count in QUERIES[method]]
        ours: list[tuple[float, float]] = []
        theirs: dict[str, list[dict[str, Any]]] = {method: [] for method in methods}
        equal = True
        for _ in range(rounds):
            family, *seconds = families(hashes)
            ours.append((seconds[0], seconds[1]))
            for method in methods:
                said = peer(python, method, file, count)
                found = said.pop("found")
                equal &= agree(hashes, family, found)
                if len(found) == count:
                    equal &= same_families(family, found)
                theirs[method].append(said)
                print(count, seconds, method, said, flush=True)
        if not equal:
            sys.exit(f"the sides do not find the same among {count} hashes")
        held: dict[str, Any] = {"equal": equal, "limit_seconds": round(limit(hashes), 4)}
        for at, clock in enumerate(("seconds", "cpu_seconds")):
            mine = median(one[at] for one in ours)
            held[clock] = {"pairmill": mine} | {m: median(one[clock] for one in theirs[m]) for m in methods}
            held[f"ratio of {clock}"] = {
                m: round(median(one[clock] / me[at] for one, me in zip(theirs[m], ours, strict=True)), 1)
                for m in methods
            }
        held["queries"] = {m: QUERIES[m][count] for m in methods}
        held["peak_mb"] = {m: max(one["peak_mb"] for one in theirs[m]) for m in methods}
        figures["sizes"][str(count)] = held
        table(
            (f"{count:,} hashes", "seconds", "ratio"),
            [(side, took, held["ratio of seconds"].get(side, 1.0)) for side, took in held["seconds"].items()],
        )
    if {100_000, 1_000_000} <= set(arguments.sizes):
        small, large = figures["sizes"]["100000"], figures["sizes"]["1000000"]
        figures["growth exponent"] = {
            clock: round(math.log10(large[clock]["pairmill"] / small[clock]["pairmill"]), 3)
            for clock in ("seconds", "cpu_seconds")
        }
        print(figures["growth exponent"])
        record("hamming", figures, began)


if __name__ == "__main__":
    main()
