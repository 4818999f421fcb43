"""imagededup's two searches over hashes, for `hamming.py`, in an interpreter that has imagededup but no torch.

    PYTHON benchmarks/hamming_peer.py METHOD HASHES QUERIES DISTANCE

HASHES: an .npy of uint64.  QUERIES: how many of them are searched for, spread evenly.  Prints the seconds of building
and of searching, and for each query the positions that are found.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path

import numpy as np
from imagededup.handlers.search.bktree import BKTree
from imagededup.handlers.search.brute_force_cython import BruteForceCython


def distance(one: str, other: str) -> int:
    """Bits that differ; imagededup's own compares the digits in Python, and takes longer."""
    return (int(one, 16) ^ int(other, 16)).bit_count()


def main(method: str, hashes: str, queries: str, most: str) -> None:
    sys.setrecursionlimit(10_000)
    held = {str(at): f"{value:016x}" for at, value in enumerate(np.load(hashes).tolist())}
    chosen = range(0, len(held), max(1, len(held) // int(queries)))
    began, cpu = time.perf_counter(), time.process_time()
    index = (BKTree if method == "bktree" else BruteForceCython)(held, distance)
    built, built_cpu = time.perf_counter(), time.process_time()
    found = {at: index.search(held[str(at)], int(most)) for at in chosen}
    said = {"build_seconds": built - began, "build_cpu_seconds": built_cpu - cpu}
    said |= {"search_seconds": time.perf_counter() - built, "search_cpu_seconds": time.process_time() - built_cpu}
    status = Path("/proc/self/status").read_text()
    said["peak_mb"] = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) // 1024  # type: ignore[index]
    print(json.dumps(said | {"found": [[at, sorted(int(name) for name, _ in some)] for at, some in found.items()]}))


if __name__ == "__main__":
    main(*sys.argv[1:])
