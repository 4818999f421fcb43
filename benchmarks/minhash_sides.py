"""One side of `minhash.py`, in a process of its own: from a file of texts to the pairs that it finds.

    PYTHON benchmarks/minhash_sides.py SIDE TEXTS BANDS ROWS RESULT

It needs NumPy and what the side is named after, and nothing else of pairmill for the peers.  The peers get texts that
are folded, and each text once, for nothing.  Their shingles are made by the rule of `curation.duplicates.shingles`, in
plain Python, as both libraries take lists of tokens.
"""

from __future__ import annotations

import itertools
import json
import re
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

THRESHOLD = 0.7
#: Texts in one call of `narrow` and `keys`; pairmill's shards are smaller, so that it makes more calls.
BLOCK = 50_000
#: Keys that one call of `edges` gets, as in a task of pairmill's barrier (`pipelines.barrier.PARTITION_ROWS`).
PARTITION = 500_000

#: What each side does before it is timed, so that modules are loaded and tables made.
WARM_UP = [f"a text like the others, number {at}" for at in range(100)]

_DENSE = re.compile(
    "[\u1100-\u11ff\u3040-\u30ff\u3100-\u318f\u31a0-\u31ff\u3400-\u9fff\ua000-\ua4cf\uac00-\ud7ff\uf900-\ufaff]"
)

Pairs = list[tuple[int, int]]
Lap = Callable[[str], None]


def tokens(text: str) -> list[str]:
    padded = f" {text} "
    if _DENSE.search(text) is None:
        return [padded[at : at + 4] for at in range(max(1, len(padded) - 3))]
    found = []
    for at, letter in enumerate(padded):
        decides = padded[at + 1] if letter == " " and at + 1 < len(padded) else letter
        length = 2 if _DENSE.match(decides) else 4
        if at + length <= len(padded) or at == 0:
            found.append(padded[at : at + length])
    return found


def verified(candidates: Iterable[tuple[int, int]], token_sets: list[list[str]]) -> Pairs:
    """The pairs whose exact similarity reaches the threshold."""
    found = []
    sets: dict[int, set[str]] = {}
    for a, b in candidates:
        one = sets.get(a) or sets.setdefault(a, set(token_sets[a]))
        other = sets.get(b) or sets.setdefault(b, set(token_sets[b]))
        common = len(one & other)
        if common >= THRESHOLD * (len(one) + len(other) - common) - 1e-9:
            found.append((a, b))
    return found


def pairmill(texts: list[str], bands: int, rows: int, lap: Lap) -> Pairs:
    import pyarrow as pa

    from curation.duplicates.near_duplicate_text import NearDuplicateText, NearDuplicateTextConfig

    config = NearDuplicateTextConfig(name="near_duplicate_text", threshold=THRESHOLD, bands=bands, rows=rows)
    kind = NearDuplicateText(config)
    lap("start")
    captions = pa.table({"caption": texts})
    narrow = [pa.table(dict(kind.narrow(captions.slice(at, BLOCK)))) for at in range(0, len(texts), BLOCK)]
    lap("fold")
    keys = [kind.keys(block) for block in narrow]
    lap("shingles and signatures")
    whole = pa.concat_tables(narrow).combine_chunks()
    partitions = 1 + sum(map(len, keys)) // PARTITION
    spread: list[list[pa.Table]] = [[] for _ in range(partitions)]
    for at, block in enumerate(keys):
        row, key = block["row"].to_numpy() + at * BLOCK, block["key"].to_numpy()
        part = (key.view(np.uint64) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(32)) % np.uint64(partitions)
        order = np.argsort(part.astype(np.uint16), kind="stable")
        ends = np.searchsorted(part[order], np.arange(partitions + 1))
        for one, (begin, end) in zip(spread, itertools.pairwise(ends), strict=True):
            one.append(pa.table({"row": row[order[begin:end]], "key": key[order[begin:end]]}))
    del keys
    found: Pairs = []
    while spread:
        some = pa.concat_tables(spread.pop()).combine_chunks()
        row = some["row"].to_numpy()
        a, b = kind.edges(whole.take(some["row"]).append_column("key", some["key"]))
        found += zip(row[a].tolist(), row[b].tolist(), strict=True)
    lap("pairs, verified")
    return found


def rensa(texts: list[str], bands: int, rows: int, lap: Lap) -> Pairs:
    from rensa import RMinHash, RMinHashLSH

    lap("start")
    token_sets = [tokens(text) for text in texts]
    lap("shingles")
    sketches = RMinHash.from_token_sets(token_sets, bands * rows, 0)
    lap("signatures")
    index = RMinHashLSH(THRESHOLD, bands * rows, bands)
    index.insert_many(sketches)
    met = index.query_all(sketches)
    lap("pairs")
    found = verified(((at, other) for at, others in enumerate(met) for other in set(others) if at < other), token_sets)
    lap("verification")
    return found


def datasketch(texts: list[str], bands: int, rows: int, lap: Lap) -> Pairs:
    import zlib

    from datasketch import MinHash, MinHashLSH

    lap("start")
    token_sets = [tokens(text) for text in texts]
    lap("shingles")
    encoded = ([token.encode() for token in some] for some in token_sets)
    sketches = MinHash.bulk(encoded, num_perm=bands * rows, hashfunc=zlib.crc32)  # its default, SHA-1, is slower
    lap("signatures")
    index = MinHashLSH(num_perm=bands * rows, params=(bands, rows))
    met = []
    for at, sketch in enumerate(sketches):
        met.append(index.query(sketch))  # of those before it, so that each pair comes once
        index.insert(at, sketch, check_duplication=False)
    lap("pairs")
    found = verified(((other, at) for at, others in enumerate(met) for other in others), token_sets)
    lap("verification")
    return found


SIDES: dict[str, Callable[[list[str], int, int, Lap], Pairs]] = {
    "pairmill": pairmill,
    "rensa": rensa,
    "datasketch": datasketch,
}


def main(side: str, texts: str, bands: str, rows: str, result: str) -> None:
    given = json.loads(Path(texts).read_text())
    seconds: dict[str, float] = {}
    last, cpu = time.perf_counter(), time.process_time()

    def lap(name: str) -> None:
        nonlocal last, cpu
        now = time.perf_counter()
        if name == "start":
            cpu = time.process_time()
        else:
            seconds[name] = round(now - last, 3)
        last = now

    SIDES[side](WARM_UP, int(bands), int(rows), lambda name: None)
    found = SIDES[side](given, int(bands), int(rows), lap)
    said: dict[str, Any] = {"seconds": round(sum(seconds.values()), 3), "steps": seconds}
    said["cpu_seconds"] = round(time.process_time() - cpu, 3)
    status = Path("/proc/self/status").read_text()
    said["peak_mb"] = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) // 1024  # type: ignore[index]
    np.save(result, np.array(found, np.int64).reshape(-1, 2))
    print(json.dumps(said))


if __name__ == "__main__":
    main(*sys.argv[1:])
