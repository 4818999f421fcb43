"""Semantic deduplication of made-up embeddings: against faiss's k-means with NumPy within clusters, and by size.

    python benchmarks/semantic.py --rows 100000 1000000        about three minutes on two free cores; 2 GB of disk

Embeddings of 512 float16 lie around 4 centres for each 1,000 rows, wide enough for clusters to cut through them.  One
row in ten is replaced by a near copy of another row, at a cosine drawn evenly from 0.991 to 0.9995, and one in a
hundred by an equal copy.  No other rows are above 0.99, so the planted pairs are all there are, and recall is the share
of them that end in one family.

Both sides are processes of their own, use the same cores, clusters and iterations, start from one file of float16 and
end with pairs in memory; ours reads in shards of 2,000 rows, writes the rows of each partition to a file as a shuffle
does, and works on one partition at a time.  Theirs (`faiss_peer.py`) runs in a virtual environment that this makes in
`runs/benchmarks`.  Peaks are `VmHWM` of the processes.  CPU
seconds count too, as other processes of a shared machine do not lengthen them.
"""

from __future__ import annotations

import argparse
import binascii
import importlib
import json
import math
import os
import resource
import subprocess
import sys
import threading
import time
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from record import WORK, machine, ratios, record, table

from curation.duplicates.components import star
from curation.duplicates.deduplicate import found_edges, met_rows, met_schema
from curation.duplicates.fitting import fitted, sample_of, smallest
from curation.duplicates.kinds import ROW_BYTES, DeduplicateConfig, kinds_of

DIMENSIONS, SHARD, EPSILON, ITERATIONS = 512, 2000, 0.01, 20

#: `PARTITION_ROWS` and the multiplier of `pipelines.barrier`, which would load Ray.
PARTITION_ROWS, SPREAD = 500_000, np.uint64(0x9E3779B97F4A7C15)


def planted(rows: int) -> Path:
    """A file of embeddings, with the planted pairs beside it."""
    path = WORK / f"semantic-{rows}.npy"
    if path.exists():
        return path
    WORK.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(rows)
    centres = rng.standard_normal((max(1, 4 * rows // 1000), DIMENSIONS), np.float32)
    part = path.with_suffix(".part.npy")
    stored = np.lib.format.open_memmap(part, "w+", np.float16, (rows, DIMENSIONS))

    def unit(vectors: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    for at in range(0, rows, 20_000):
        n = min(20_000, rows - at)
        own = rng.standard_normal((n, DIMENSIONS), np.float32)
        stored[at : at + n] = unit(unit(centres[rng.integers(0, len(centres), n)]) + 0.8 * unit(own))
    chosen = rng.permutation(rows)
    copies = chosen[: rows * 11 // 100]
    sources = rng.choice(chosen[len(copies) :], len(copies))
    cosine = rng.uniform(0.991, 0.9995, len(copies)).astype(np.float32)
    cosine[: rows // 100] = 1
    for at in range(0, len(copies), 20_000):
        here = slice(at, at + 20_000)
        base, angle = stored[sources[here]].astype(np.float32), cosine[here, None]
        off = rng.standard_normal(base.shape, np.float32)
        off = unit(off - (off * base).sum(1, keepdims=True) * base)
        mixed = unit(base * angle + off * np.sqrt(np.maximum(0, 1 - angle * angle)))
        stored[copies[here]] = np.where(angle == 1, base, mixed)
    stored.flush()
    np.save(path.with_suffix(".pairs.npy"), np.stack([sources, copies]))
    part.rename(path)
    return path


def shard(path: Path, rows: int, number: int) -> pa.Table:
    """A shard as the barrier reads it, with an embedding of fixed size."""
    n = min(SHARD, rows - number * SHARD)
    with path.open("rb") as stream:
        np.lib.format.read_magic(stream)
        np.lib.format.read_array_header_1_0(stream)
        stream.seek(number * SHARD * DIMENSIONS * 2, os.SEEK_CUR)
        values = np.fromfile(stream, np.float16, n * DIMENSIONS)
    places = np.arange(number * SHARD, number * SHARD + n, dtype=np.uint64) * SPREAD
    uids = np.frombuffer(binascii.hexlify(places.astype(">u8").tobytes()), "S16")
    return pa.table(
        {
            "uid": pa.array(uids, pa.binary()).cast(pa.string()),
            "shard": pa.array(np.full(n, number, np.int32)),
            "row": pa.array(np.arange(n, dtype=np.int32)),
            "score": pa.array(np.zeros(n)),
            "image_embedding_made_up": pa.FixedSizeListArray.from_arrays(pa.array(values), DIMENSIONS),
        }
    )


def ours(path: Path, rows: int, probes: int, to: Path) -> dict[str, Any]:
    """What the barrier does, without Ray."""
    for library in ("onnxruntime", "pandas", "scipy.sparse"):  # loaded when needed, as faiss is before its clock starts
        importlib.import_module(library)
    began = time.perf_counter()
    config = DeduplicateConfig(
        kinds=[{"name": "semantic_duplicate", "epsilon": EPSILON, "iterations": ITERATIONS, "probes": probes}]
    ).resolved(["image_embedding_made_up"])
    kind = kinds_of(config)[0]
    numbers = range(math.ceil(rows / SHARD))

    def sampled(own: range) -> pa.Table:
        found = sample_of(shard(path, rows, own[0]), kind, rows)
        for at in range(1, len(own), 32):
            some = [sample_of(shard(path, rows, number), kind, rows) for number in own[at : at + 32]]
            found = smallest([found, *some], kind, rows)
        return found

    # A thread for each core, as Ray has a task for each: both libraries of matrices have one.
    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        samples = list(pool.map(sampled, [numbers[at::threads] for at in range(min(threads, len(numbers)))]))
    kind = fitted(kind, smallest(samples, kind, rows), rows)
    del samples
    fit = time.perf_counter()
    cpu = {"sample and fit": time.process_time()}
    partitions = (1 + rows // PARTITION_ROWS) * kind.keys_per_row * max(1, -(-kind.row_bytes // ROW_BYTES))
    fit_mb = peak_mb()
    folder = WORK / "semantic-partitions"
    folder.mkdir(exist_ok=True)
    files = [pa.OSFile(str(folder / f"{at}.arrow"), "wb") for at in range(partitions)]
    schema = met_schema([kind])
    writers = [pa.ipc.new_stream(file, schema) for file in files]

    def written(number: int) -> None:
        met = met_rows(shard(path, rows, number), kinds=[kind])
        # As `pipelines.barrier` spreads keys.
        part = (met["key"].to_numpy().view(np.uint64) * SPREAD >> np.uint64(32)) % np.uint64(partitions)
        met = met.take(pa.array(np.argsort(part, kind="stable"))).combine_chunks()
        ends = np.searchsorted(np.sort(part), np.arange(partitions + 1))
        for at, writer in enumerate(writers):
            with locks[at]:
                writer.write_table(met.slice(ends[at], ends[at + 1] - ends[at]))

    def compared(at: int) -> list[Any]:
        with pa.OSFile(str(folder / f"{at}.arrow"), "rb") as file:
            edges = found_edges(pa.ipc.open_stream(file).read_all(), kinds=[kind])
        (folder / f"{at}.arrow").unlink()
        ends = [edges[f"{end}_shard"].to_numpy() * np.int64(SHARD) + edges[f"{end}_row"].to_numpy() for end in "ab"]
        return ends

    locks = [threading.Lock() for _ in files]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(written, numbers))
        for writer, file in zip(writers, files, strict=True):
            writer.close()
            file.close()
        assign, assign_mb = time.perf_counter(), peak_mb()
        cpu["assign and shuffle"] = time.process_time() - sum(cpu.values())
        found = list(pool.map(compared, range(partitions)))
    pairs = np.stack([np.concatenate([one[end] for one in found]) for end in (0, 1)])
    done = time.perf_counter()
    cpu["compare"] = time.process_time() - sum(cpu.values())
    np.save(to, pairs)
    seconds = {"sample and fit": fit - began, "assign and shuffle": assign - fit, "compare": done - assign}
    used = resource.getrusage(resource.RUSAGE_SELF)
    result = {"seconds": done - began, "cpu_seconds": used.ru_utime + used.ru_stime, "parts": seconds, "cpu_parts": cpu}
    peaks = {"sample and fit": fit_mb, "assign and shuffle": assign_mb, "compare": peak_mb()}
    return {**result, "peak_mb": peak_mb(), "peaks_mb": peaks, "clusters": len(kind.state.clusters.leaves)}


def peak_mb() -> float:
    """The highest resident size of this process so far; `ru_maxrss` would begin with that of the parent."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1e3


def recall(path: Path, rows: int, pairs: Path) -> tuple[float, int]:
    """The share of the planted pairs that are in one family, and how many rows have a family that was not planted."""
    planted_pairs, found = np.load(path.with_suffix(".pairs.npy")), np.load(pairs)

    def labels(a: Any, b: Any) -> Any:
        label = np.arange(rows)
        node, root = star(a, b)
        label[node] = root
        return label

    label, true = labels(*found), labels(*planted_pairs)
    together = label[planted_pairs[0]] == label[planted_pairs[1]]
    wrong = true[found[0]] != true[found[1]]
    return float(together.mean()), int(wrong.sum())


def peer() -> str:
    """The Python of an environment with faiss."""
    folder = WORK / "faiss-venv"
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "faiss-cpu", "numpy"], check=True)
    return str(python)


def run(command: list[str], **environment: str) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)
    if done.returncode:
        raise RuntimeError(f"{command} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=1, help="alternations of the two sides at the largest size")
    parser.add_argument("--probes", type=int, nargs="+", default=[2])
    parser.add_argument("--only", type=int, nargs=2, metavar=("ROWS", "PROBES"), help="our side alone, as JSON")
    parser.add_argument("--no-peer", action="store_true")
    asked = parser.parse_args()
    to = WORK / "semantic-found.npy"
    if asked.only:
        rows, probes = asked.only
        print(json.dumps(ours(planted(rows), rows, probes, to)))
        return
    began, runs = machine(), []
    for rows in asked.rows:
        path, last = planted(rows), rows == asked.rows[-1]
        for _ in range(asked.rounds if last else 1):
            for probes in asked.probes:
                one = run(
                    [sys.executable, __file__, "--only", str(rows), str(probes)],
                    OPENBLAS_NUM_THREADS="1",
                    OMP_NUM_THREADS="1",
                )
                share, wrong = recall(path, rows, to)
                runs.append({"side": f"ours, probes {probes}", "rows": rows, **one, "recall": share, "wrong": wrong})
            if not asked.no_peer and last:
                given = (str(max(1, rows // 1000)), str(ITERATIONS), str(EPSILON))
                one = run(
                    [peer(), str(Path(__file__).with_name("faiss_peer.py")), str(path), *given, str(to)],
                    OMP_WAIT_POLICY="PASSIVE",
                )
                share, wrong = recall(path, rows, to)
                runs.append({"side": "faiss and NumPy", "rows": rows, **one, "recall": share, "wrong": wrong})
            print(json.dumps(runs[-2:]), flush=True)
    table(
        ("side", "rows", "seconds", "CPU seconds", "peak MB", "recall", "pairs not planted"),
        [[r["side"], r["rows"], r["seconds"], r["cpu_seconds"], r["peak_mb"], r["recall"], r["wrong"]] for r in runs],
    )
    figures: dict[str, Any] = {"runs": runs}
    first = [r for r in runs if r["side"] == f"ours, probes {asked.probes[0]}"]
    if len(asked.rows) > 1:
        for name in ("seconds", "cpu_seconds"):
            low, high = (min(r[name] for r in first if r["rows"] == rows) for rows in (asked.rows[0], asked.rows[-1]))
            figures[f"growth exponent of {name}"] = round(
                math.log(high / low) / math.log(asked.rows[-1] / asked.rows[0]), 3
            )
    theirs = [r for r in runs if r["side"] == "faiss and NumPy"]
    if theirs:
        mine = [r for r in first if r["rows"] == asked.rows[-1]]
        figures["speed against faiss"] = ratios([1 / r["seconds"] for r in mine], [1 / r["seconds"] for r in theirs])
        figures["CPU time against faiss"] = ratios([r["cpu_seconds"] for r in mine], [r["cpu_seconds"] for r in theirs])
        figures["peak memory against faiss"] = ratios([r["peak_mb"] for r in mine], [r["peak_mb"] for r in theirs])
    print({name: figure for name, figure in figures.items() if name != "runs"})
    record("semantic", figures, began)


if __name__ == "__main__":
    main()
