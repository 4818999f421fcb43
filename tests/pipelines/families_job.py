"""What `test_families_over_nodes` runs as a process: the families of a small run, over a cluster of several nodes.

python families_job.py FOLDER NODES      prints the members of each shard, and what becomes of its rows, as JSON
"""

from __future__ import annotations

import json
import random
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from nodes_job import cluster_of

from curation.duplicates.kinds import DeduplicateConfig
from curation.duplicates.stage import Deduplicate
from curation.table import PLAN
from pairmill.store import Store
from pipelines.stages import deduplicate

SHARDS, ROWS = 40, 30
#: The three default kinds, one on captions, and one that learns from a sample of a part of the rows.
CONFIG = DeduplicateConfig(
    kinds=[
        *("duplicate_pair", "duplicate_image", "near_duplicate_image"),
        "near_duplicate_text",
        {"name": "semantic_duplicate", "clusters": 8, "embedding": "embedding"},
    ]
)
READS = {
    "images": ("embedding", "sha256", "phash", "colours", "caption", "original_width", "original_height", "drop_reason")
}


def rows(shard: int) -> pa.Table:
    """Rows of which many share bytes, captions or hashes with rows of other shards, and some are dropped."""
    chance = random.Random(shard)
    pictures = [chance.randrange(900) for _ in range(ROWS)]
    made = [
        {
            "uid": f"{chance.getrandbits(128):032x}",
            "url": "http://a.example/",
            "alt": "",
            "sha256": f"{picture:064x}",
            "phash": random.Random(chance.randrange(500)).getrandbits(64) ^ 1 << chance.randrange(64),
            "colours": bytes(192),
            # That of another picture in one row of five, and one of two endings.
            "caption": f"{words(picture if chance.random() > 0.2 else chance.randrange(900))} {chance.randrange(2)}",
            "original_width": chance.randrange(1, 5),
            "original_height": 1,
            "drop_reason": chance.choice([None] * 9 + ["too_small"]),
        }
        for picture in pictures
    ]
    hashes = pa.array([row.pop("phash") for row in made], pa.uint64())
    nothing = pa.array([row.pop("drop_reason") for row in made], pa.string())
    table = pa.Table.from_pylist(made).append_column("embedding", embeddings(shard))
    return table.append_column("phash", hashes).append_column("drop_reason", nothing)


def words(picture: int) -> str:
    """A caption of a picture, that shares no more than a few letters with those of others."""
    chance = random.Random(picture)
    return " ".join("".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(6))


def embeddings(shard: int) -> pa.Array:
    """Of one row in four that of another row, but for a little."""
    rng = np.random.default_rng(shard)
    base = np.random.default_rng(0).standard_normal((ROWS * SHARDS, 16))
    own = base[shard * ROWS : (shard + 1) * ROWS]
    near = base[rng.integers(0, len(base), ROWS)] + 0.01 * rng.standard_normal((ROWS, 16))
    vectors = np.where(rng.random((ROWS, 1)) < 0.25, near, own)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.astype(np.float16).ravel()), 16)


def store_at(folder: str) -> Store:
    """A run with its plan and one table."""
    store = Store(folder)
    for shard in range(SHARDS):
        table = rows(shard)
        store.commit(PLAN, shard, "k", table.select(["uid", "url", "alt"]), {})
        store.commit("images", shard, "k", table.select(["uid", *READS["images"]]), {})
    return store


@ray.remote
class Board:
    """Takes what a stage reports."""

    def begin(self, *given: Any) -> None:
        """A shard is started."""

    def add(self, *given: Any) -> None:
        """A shard is done."""


def chosen(found: deduplicate.Families) -> dict[int, list[dict[str, Any]]]:
    """Shard -> uid, keep, reason and duplicate_group of its rows, as the stage records them."""
    select = deduplicate.SelectStage(found, Deduplicate(CONFIG), ["filter"], Board.remote())

    def of_shard(shard: int) -> pa.Table:
        some = rows(shard).select(["uid", "drop_reason"])
        stage = pc.if_else(some["drop_reason"].is_valid(), "filter", pa.scalar(None, pa.string()))
        some = some.append_column("drop_stage", stage)
        return select(some.append_column("_shard", pa.repeat(pa.scalar(shard, pa.int32()), len(some))))

    parts = deduplicate.over_shards(range(SHARDS), of_shard, name="select").materialize().to_arrow_refs()
    lines: dict[int, list[dict[str, Any]]] = {}
    for part in ray.get(parts):
        for row in part.select(["_shard", "uid", "keep", "reason", "duplicate_group"]).to_pylist():
            lines.setdefault(row.pop("_shard"), []).append(row)
    return lines


def main() -> None:
    folder, nodes = sys.argv[1], int(sys.argv[2])
    store = store_at(folder)
    # Sizes of which a run of a billion rows has as many.
    deduplicate.PARTITION_EDGES, deduplicate.PARTITION_ROWS = 100, 400
    with cluster_of(nodes):
        found = deduplicate.losers_over(store, range(SHARDS), SHARDS * ROWS, READS, CONFIG)
        members: dict[int, Any] = {shard: found.of(shard).to_pylist() for shard in range(SHARDS)}
        lines = chosen(found)
    print(json.dumps({"members": members, "chosen": lines}))


if __name__ == "__main__":
    main()
