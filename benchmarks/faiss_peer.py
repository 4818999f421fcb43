"""Semantic duplicates as one writes them with faiss and NumPy: the peer of `semantic.py`, in an environment of its own.

    python faiss_peer.py VECTORS.npy CLUSTERS ITERATIONS EPSILON PAIRS.npy      prints seconds and peak memory as JSON

k-means by `faiss.Kmeans` (spherical, at its defaults otherwise), the nearest centroid by its index, and the cosines of
each cluster as one product.  The vectors are float16 on disk and float32 in memory, as faiss wants them.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from itertools import pairwise
from pathlib import Path

import faiss
import numpy as np


def main() -> None:
    path, clusters, iterations, epsilon, to = sys.argv[1:]
    began = time.perf_counter()
    stored = np.load(path, mmap_mode="r")
    n, dimensions = stored.shape
    vectors = np.empty((n, dimensions), np.float32)
    for at in range(0, n, 50_000):
        vectors[at : at + 50_000] = stored[at : at + 50_000]
    faiss.normalize_L2(vectors)
    read = time.perf_counter()
    kmeans = faiss.Kmeans(dimensions, int(clusters), niter=int(iterations), spherical=True, seed=0)
    kmeans.train(vectors)
    trained = time.perf_counter()
    _, member = kmeans.index.search(vectors, 1)
    member = member[:, 0]
    assigned = time.perf_counter()
    order = np.argsort(member, kind="stable")
    ends = np.searchsorted(member[order], np.arange(int(clusters) + 1))
    found = []
    for begin, end in pairwise(ends):
        rows = order[begin:end]
        some = vectors[rows]
        a, b = np.nonzero(np.triu(some @ some.T > 1 - float(epsilon), 1))
        found.append(np.stack([rows[a], rows[b]]))
    pairs = np.concatenate(found, 1)
    done = time.perf_counter()
    np.save(to, pairs)
    seconds = {"read": read - began, "fit": trained - read, "assign": assigned - trained, "compare": done - assigned}
    used = resource.getrusage(resource.RUSAGE_SELF)
    result = {"seconds": done - began, "cpu_seconds": used.ru_utime + used.ru_stime, "parts": seconds}
    # `ru_maxrss` would begin with that of the parent.
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1e3
    print(json.dumps({**result, "peak_mb": peak, "faiss": faiss.__version__}))


if __name__ == "__main__":
    main()
