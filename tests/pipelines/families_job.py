"""What `test_families_over_nodes` runs as a process: the families of a small run, over a cluster of several nodes.

python families_job.py FOLDER NODES      prints the members of each shard as JSON
"""

from __future__ import annotations

import json
import random
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.cluster_utils import Cluster

from curation.duplicates.kinds import DeduplicateConfig
from curation.table import PLAN
from pairmill.store import Store
from pipelines.stages import deduplicate

SHARDS, ROWS = 40, 30
#: The three default kinds, and one that learns from a sample of a part of the rows.
CONFIG = DeduplicateConfig(
    kinds=[
        *("duplicate_pair", "duplicate_image", "near_duplicate_image"),
        {"name": "semantic_duplicate", "clusters": 8, "embedding": "embedding"},
    ]
)
READS = {
    "images": ("embedding", "sha256", "phash", "colours", "caption", "original_width", "original_height", "drop_reason")
}


def rows(shard: int) -> pa.Table:
    """Rows of which many share bytes, captions or hashes with rows of other shards, and some are dropped."""
    chance = random.Random(shard)
    made = [
        {
            "uid": f"{chance.getrandbits(128):032x}",
            "url": "http://a.example/",
            "alt": "",
            "sha256": f"{chance.randrange(900):064x}",
            "phash": random.Random(chance.randrange(500)).getrandbits(64) ^ 1 << chance.randrange(64),
            "colours": bytes(48),
            "caption": f"caption {chance.randrange(2)}",
            "original_width": chance.randrange(1, 5),
            "original_height": 1,
            "drop_reason": chance.choice([None] * 9 + ["too_small"]),
        }
        for _ in range(ROWS)
    ]
    hashes = pa.array([row.pop("phash") for row in made], pa.uint64())
    nothing = pa.array([row.pop("drop_reason") for row in made], pa.string())
    table = pa.Table.from_pylist(made).append_column("embedding", embeddings(shard))
    return table.append_column("phash", hashes).append_column("drop_reason", nothing)


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


def main() -> None:
    folder, nodes = sys.argv[1], int(sys.argv[2])
    store = store_at(folder)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(nodes - 1):
        cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    # Sizes of which a run of a billion rows has as many.
    deduplicate.PARTITION_EDGES, deduplicate.PARTITION_ROWS = 100, 400
    try:
        found = deduplicate.losers_over(store, range(SHARDS), SHARDS * ROWS, READS, CONFIG)
        members: dict[int, Any] = {shard: found.of(shard).to_pylist() for shard in range(SHARDS)}
    finally:
        ray.shutdown()
        cluster.shutdown()
    print(json.dumps(members))


if __name__ == "__main__":
    main()
