"""The barrier over a real (local) Ray: equal keys meet, nothing is lost, and no rows at all are no trouble."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
import ray
from ray import cloudpickle
from ray.exceptions import RayError

from pipelines.barrier import brought_together, over_shards
from pipelines.pools import connected
from pipelines.recipe import parse_recipe

pytestmark = pytest.mark.ray

#: Multiples of a number that the partitions share a factor with, and both ends of the range.
KEYS = [*(35 * n for n in range(-40, 40)), -(2**63), 2**63 - 1]


@pytest.fixture(scope="module", autouse=True)
def cluster(local_ray: None) -> Iterator[None]:
    # Workers cannot import a test module.
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    with connected(parse_recipe("run_dir: r\ninput: {path: p}\n")):
        yield
    cloudpickle.unregister_pickle_by_value(module)


def rows(shard: int, keys: list[int]) -> pa.Table:
    return pa.table({"shard": pa.array([shard] * len(keys), pa.int32()), "key": pa.array(keys, pa.int64())})


def test_rows_of_equal_key_meet_and_each_row_is_there_once() -> None:
    shards = range(40)  # more than one task reads
    read = over_shards(shards, lambda shard: rows(shard, KEYS if shard % 2 else KEYS[:50]), name="test")
    found = [ray.get(ref) for ref in brought_together(read, 7, lambda part: part)]
    found = [part for part in found if part.num_columns]
    assert found[0].schema.names == ["shard", "key"]
    met = pa.concat_tables(found)
    assert sorted(met.to_pylist(), key=str) == sorted(
        (row for shard in shards for row in rows(shard, KEYS if shard % 2 else KEYS[:50]).to_pylist()), key=str
    )


def test_apply_sees_a_partition_whole_and_partitions_are_of_about_one_size() -> None:
    read = over_shards(range(3), lambda shard: rows(shard, KEYS), name="test")

    def summary(part: pa.Table) -> pa.Table:
        keys, times = np.unique(part["key"].to_numpy(), return_counts=True)
        return pa.table({"keys": [len(keys)], "whole": [bool((times == 3).all())]})

    found = [ray.get(ref).to_pylist() for ref in brought_together(read, 7, summary)]
    parts = [part for block in found for part in block]
    assert sum(part["keys"] for part in parts) == len(KEYS)
    assert len(parts) == 7
    assert all(part["whole"] and part["keys"] < 3 * len(KEYS) / 7 for part in parts)


@pytest.mark.parametrize("shards", [0, 3, 40])  # 40: more than one task reads
def test_no_rows_at_all(shards: int) -> None:
    read = over_shards(range(shards), lambda shard: rows(shard, []), name="test")
    assert sum(len(ray.get(ref)) for ref in brought_together(read, 7, lambda part: part)) == 0


def test_what_fails_in_a_partition_is_raised() -> None:
    read = over_shards(range(3), lambda shard: rows(shard, KEYS), name="test")
    with pytest.raises(RayError, match="no number"):
        brought_together(read, 7, _refused)


def _refused(part: pa.Table) -> pa.Table:
    raise ValueError("no number")
