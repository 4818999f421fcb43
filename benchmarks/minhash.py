"""How fast near-duplicate captions are found, against datasketch and rensa: texts to pairs, on the same work.

    python benchmarks/minhash.py        about ten minutes; fetches 32 MB of texts (`caption_texts.py`) and the two peers

All take 17 bands of 5 values, and n-grams of characters by the same rule.  pairmill is given captions and folds them;
the peers are given folded texts, each once, and nothing of that counts.  A pair counts if its exact similarity is at
least 0.7, so what a peer's index returns is compared by its n-grams; the figures without that are kept too.  Sides
alternate, each in a process of its own.  datasketch takes minutes for a million and has one round there.

Recall is of 20,000 real captions, and of 20,000 as in the race, against all pairs by exact similarity (a product of
sparse matrices): the share of alike pairs that end up in one family.

The limit is the time that one core needs to multiply each shingle's hash by 85 factors and take the least of each text,
with all numbers in its second-level cache.  A peer that samples or bins does without some of it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from caption_texts import FOLDER, captions
from minhash_sides import THRESHOLD, tokens
from peers import interpreter
from record import machine, ratios, record, table
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from curation.duplicates.near_duplicate_text import banding
from curation.duplicates.shingles import folded

PEERS = ("rensa==0.5.0", "datasketch==2.0.0")
SIDES_OF = {"pairmill": None, "rensa": "peers", "datasketch": "peers"}
BANDS, ROWS = banding(THRESHOLD, 0.95)
PAIRS = FOLDER / "pairs.npy"


def texts_of(made: list[str], name: str) -> tuple[Path, Path, npt.NDArray[np.int64], list[str]]:
    """Files of the captions and of their distinct folded texts, the distinct text of each caption, and those texts."""
    found = folded(pa.chunked_array([made])).to_pylist()
    place: dict[str, int] = {}
    number = [place.setdefault(text, len(place)) if text else -1 for text in found]
    files = FOLDER / f"{name}.json", FOLDER / f"{name}-folded.json"
    for file, held in zip(files, (made, list(place)), strict=True):
        file.write_text(json.dumps(held))
    return *files, np.array(number, np.int64), list(place)


def run(side: str, texts: Path, peers: Path) -> tuple[dict[str, Any], npt.NDArray[np.int64]]:
    """What a side says of itself, and the pairs that it found."""
    script = Path(__file__).with_name("minhash_sides.py")
    python = sys.executable if side == "pairmill" else str(peers)
    environment = os.environ | {"PYTHONPATH": str(script.parent.parent)}
    command = [python, str(script), side, str(texts), str(BANDS), str(ROWS), str(PAIRS)]
    said = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    return json.loads(said), np.load(PAIRS)


def families(count: int, pairs: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    graph = coo_array((np.ones(len(pairs), np.int8), pairs.T), shape=(count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def all_alike(texts: list[str]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Every pair of texts at the threshold or above, and its similarity, by a product of sparse matrices."""
    names: dict[str, int] = {}
    rows, columns = [], []
    for at, text in enumerate(texts):
        for token in set(tokens(text)):
            rows.append(at)
            columns.append(names.setdefault(token, len(names)))
    held = csr_array((np.ones(len(rows), np.int32), (rows, columns)), shape=(len(texts), len(names)))
    size, turned = held.sum(1), held.T.tocsr()
    pairs, similar = [], []
    for begin in range(0, len(texts), 1_000):
        common = (held[begin : begin + 1_000] @ turned).tocoo()
        a, b = common.row.astype(np.int64) + begin, common.col.astype(np.int64)
        similarity = common.data / (size[a] + size[b] - common.data)
        alike = (similarity >= THRESHOLD - 1e-9) & (a < b)
        pairs.append(np.stack([a[alike], b[alike]], 1))
        similar.append(similarity[alike])
    return np.concatenate(pairs), np.concatenate(similar)


def quality(made: list[str], name: str, peers: Path) -> dict[str, Any]:
    """Recall and precision of each side against all pairs."""
    given, given_folded, number, texts = texts_of(made, name)
    alike, similarity = all_alike(texts)
    figures: dict[str, Any] = {"captions": len(made), "distinct texts": len(texts), "alike pairs": len(alike)}
    exact = {tuple(pair) for pair in alike.tolist()}
    for side in SIDES_OF:
        _, pairs = run(side, given if side == "pairmill" else given_folded, peers)
        if side == "pairmill":
            pairs = number[pairs]
            pairs = np.sort(pairs[pairs[:, 0] != pairs[:, 1]], 1)
        family = families(len(texts), pairs)
        together = family[alike[:, 0]] == family[alike[:, 1]]
        near = similarity < 0.75
        figures[side] = {
            "recall": round(float(together.mean()), 4),
            "recall from 0.70 to 0.75": round(float(together[near].mean()), 4),
            "pairs that are not alike": sum(tuple(pair) not in exact for pair in pairs.tolist()),
        }
    return figures


def limit(texts: list[str]) -> float:
    """Seconds of one core for the multiplications and minima of all signatures."""
    block = np.random.default_rng(0).integers(0, 1 << 32, (64, 1024), dtype=np.uint32)
    product, least, best = np.empty_like(block), np.empty(1024, np.uint32), math.inf
    for _ in range(200):
        began = time.perf_counter()
        np.minimum.reduce(np.multiply(block, np.uint32(0x9E3779B1), out=product), axis=0, out=least)
        best = min(best, time.perf_counter() - began)
    sample = random.Random(0).sample(texts, min(len(texts), 10_000))
    shingles = sum(len(tokens(text)) for text in sample) / len(sample) * len(texts)
    return best / block.size * shingles * BANDS * ROWS


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--texts", type=Path, help="captions of your own, one a line, instead of made ones")
    arguments = parser.parse_args()
    began = machine()
    peers = interpreter("minhash", PEERS)
    own = arguments.texts.read_text().splitlines() if arguments.texts else None
    if own:
        random.Random(0).shuffle(own)
    figures: dict[str, Any] = {"peers": list(PEERS), "bands": BANDS, "rows": ROWS, "sizes": {}, "quality": {}}
    if own is None:
        captions(1)
        emoji = json.loads((FOLDER / "emoji.json").read_text()).values()
        real = json.loads((FOLDER / "phrases.json").read_text()) + [", ".join(one) for some in emoji for one in some]
        figures["quality"]["real"] = quality(random.Random(0).sample(real, 20_000), "real", peers)
    figures["quality"]["raced"] = quality(own[:20_000] if own else captions(20_000), "raced", peers)
    print(json.dumps(figures["quality"], indent=1))

    for size in arguments.sizes:
        made = own[:size] if own else captions(size)
        given, given_folded, _, texts = texts_of(made, f"size-{size}")
        sides = list(SIDES_OF)
        said: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
        for turn in range(arguments.rounds):
            for side in sides if turn % 2 == 0 else sides[::-1]:
                if side == "datasketch" and size > 100_000 and turn:
                    continue  # it takes minutes
                one, pairs = run(side, given if side == "pairmill" else given_folded, peers)
                said[side].append(one | {"pairs": len(pairs)})
                print(size, side, json.dumps(one), flush=True)
        figures["sizes"][str(size)] = held = {
            "mean characters": round(sum(map(len, made)) / len(made), 1),
            "distinct texts": len(texts),
            "limit_seconds": round(limit(texts), 2),
            "runs": said,
            "peak_mb": {side: max(one["peak_mb"] for one in said[side]) for side in sides},
            "seconds": {side: median(one["seconds"] for one in said[side]) for side in sides},
            "ratio": {side: _ratios(said, side, lambda one: one["seconds"]) for side in sides[1:]},
            # Where other programs share the cores, this is the steadier one; threads of a peer count against it.
            "ratio of CPU time": {side: _ratios(said, side, lambda one: one["cpu_seconds"]) for side in sides[1:]},
            "ratio without the peer's verification": {
                side: _ratios(said, side, lambda one: one["seconds"] - one["steps"].get("verification", 0.0))
                for side in sides[1:]
            },
        }
        table(
            (f"{size:,} captions", "seconds", "MB", "ratio", "of CPU time", "without verification"),
            [
                (
                    side,
                    held["seconds"][side],
                    held["peak_mb"][side],
                    *(
                        held[name][side]["median"] if side != "pairmill" else 1.0
                        for name in ("ratio", "ratio of CPU time", "ratio without the peer's verification")
                    ),
                )
                for side in sides
            ],
        )
        if size > arguments.sizes[0]:
            steps = math.log(size / arguments.sizes[0])
            first = figures["sizes"][str(arguments.sizes[0])]["runs"]
            figures["growth exponent"] = {
                kind: {
                    side: round(math.log(_median(said[side], kind) / _median(first[side], kind)) / steps, 3)
                    for side in sides
                }
                for kind in ("seconds", "cpu_seconds")
            }
            print(figures["growth exponent"])
        if own is None:
            record("minhash", figures, began)


def _ratios(said: dict[str, list[dict[str, Any]]], side: str, of: Callable[[dict[str, Any]], float]) -> Any:
    """A peer's figure over ours of the same round."""
    return ratios([of(one) for one in said[side]], [of(one) for one in said["pairmill"][: len(said[side])]])


def _median(runs: list[dict[str, Any]], kind: str) -> float:
    return median(one[kind] for one in runs)


if __name__ == "__main__":
    main()
