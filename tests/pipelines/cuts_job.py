"""What `test_cuts_over_nodes` runs as a process: a quota, a quantile or the best rows, over a cluster of several nodes.

python cuts_job.py NODES RULE      prints the uids that a rule keeps, as JSON
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
from nodes_job import cluster_of

from curation.selections.cuts import Limits, find_cuts, kept_by
from curation.selections.ranking import ranked
from pipelines.stages import select

SHARDS, ROWS = 40, 30
#: More rows than one place may hold, so that groups are counted, the small ones brought together, and the large ones
#: looked at bit by bit.
LIMITS = Limits(rows=200)
#: Rows of a group that stay, by the rule of each name; `grouped` says whether a rule is one of groups.
RULES: dict[str, tuple[bool, Callable[[Any, int], Any]]] = {
    "quota": (True, lambda size, total: np.minimum(size, 40)),
    "quantile by language": (True, lambda size, total: (7 * size + 9) // 10),
    "top": (False, lambda size, total: np.full_like(size, 500)),
}


def rows(shard: int) -> pa.Table:
    """Rows of three large languages, ten small ones and none, with many equal scores."""
    rng = np.random.default_rng(shard)
    languages = ["en", "zh", "de", None, *(f"x{number}" for number in range(10))]
    share = np.array([0.5, 0.2, 0.12, 0.05, *[0.013] * 10])
    picked = rng.choice(len(languages), ROWS, p=share / share.sum())
    return pa.table(
        {
            "uid": [f"{int(a):016x}{int(b):016x}" for a, b in rng.integers(0, 1 << 62, (ROWS, 2))],
            "score": rng.integers(0, 25, ROWS) / 8,
            "language": pa.array([languages[at] for at in picked], pa.string()),
        }
    )


def ranks_of(shard: int, grouped: bool) -> pa.Table:
    """The rows of a shard as `RANKED`."""
    given = rows(shard)
    return ranked(given["language"] if grouped else None, given["score"], given["uid"])


def kept(grouped: bool, last: Callable[[Any, int], Any]) -> list[str]:
    """The uids that a rule keeps, by shard and row."""
    passes = select.RayPasses(range(SHARDS), SHARDS * ROWS)
    cuts = find_cuts(passes, lambda shard: ranks_of(shard, grouped), last, rows=SHARDS * ROWS, limits=LIMITS)
    found = []
    for shard in range(SHARDS):
        uids = rows(shard)["uid"].filter(pa.array(kept_by(ranks_of(shard, grouped), cuts)))
        found += uids.to_pylist()
    return found


def main() -> None:
    nodes, rule = sys.argv[1:]
    select.PARTITION_ROWS = 600  # a size of which a run of a billion rows has thousands
    with cluster_of(int(nodes)):
        found = kept(*RULES[rule])
    print(json.dumps(found))


if __name__ == "__main__":
    main()
