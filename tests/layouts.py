"""Passes over shards in this process, and ways to divide rows among shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa

from curation.selections.cuts import Read


class LocalPasses:
    """`Passes` over a number of shards; what is brought together shares one of `partitions` places."""

    def __init__(self, shards: int, partitions: int = 3) -> None:
        self._shards, self._partitions = shards, partitions
        self.passes = 0

    def collected(self, read: Read, apply: Callable[[pa.Table], pa.Table], schema: pa.Schema) -> pa.Table:
        self.passes += 1
        return apply(pa.concat_tables([schema.empty_table(), *(read(shard) for shard in range(self._shards))]))

    def shuffled(self, read: Read, apply: Callable[[pa.Table], pa.Table], schema: pa.Schema) -> pa.Table:
        self.passes += 1
        rows = pa.concat_tables([read(shard) for shard in range(self._shards)])
        part = rows["key"].to_numpy() % self._partitions
        rows = rows.drop_columns(["key"])
        parts = [rows.filter(pa.array(part == one)) for one in range(self._partitions)]
        return pa.concat_tables([schema.empty_table(), *map(apply, parts)])


def divided(rows: pa.Table, shards: int, seed: int) -> list[pa.Table]:
    """The rows in another order, in shards of odd sizes, some of them empty."""
    rng = np.random.default_rng(seed)
    rows = rows.take(pa.array(rng.permutation(len(rows))))
    cuts = np.sort(rng.integers(0, len(rows) + 1, shards - 1))
    ends = [0, *cuts.tolist(), len(rows)]
    return [rows.slice(a, b - a) for a, b in pairwise(ends)]


def layouts(rows: pa.Table, number: int = 10) -> Iterator[list[pa.Table]]:
    """The rows as they are in one shard, and divided in other ways."""
    yield [rows]
    for seed in range(1, number):
        yield divided(rows, 1 + 2 * seed, seed)


def reader(shards: Sequence[pa.Table]) -> Callable[[int], pa.Table]:
    """What reads a shard."""
    return lambda shard: shards[shard]
