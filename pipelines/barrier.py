"""A global step in Ray Data: read narrow rows of every shard, and bring together rows of equal key.

Nothing that grows with the rows passes through the driver: it holds references to tables in the object store.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import ray
from ray.data import Dataset, from_arrow
from ray.exceptions import RayError

from curation.schema import set_columns
from pipelines.actors import RESTARTS

#: About how many rows one task of a barrier holds at a time.
PARTITION_ROWS = 500_000

#: Shards that one task reads: opening a file costs more than reading a narrow table.
_SHARDS_PER_TASK = 32

_BATCHES = {"batch_size": None, "batch_format": "pyarrow"}
# 2^64 divided by the golden ratio: the upper bits of a product with it depend on all bits of a key, so that keys which
# are multiples of something spread too (Knuth, The Art of Computer Programming 3, 6.4).
_SPREAD = np.uint64(0x9E3779B97F4A7C15)


def over_shards(shards: Sequence[int], read: Callable[[int], pa.Table], *, name: str) -> Dataset:
    """The rows that `read` returns for each shard.  name: shown on the dashboard."""
    numbers = pa.table({"shard": pa.array(shards, pa.int32())})
    tasks = from_arrow([numbers.slice(at, _SHARDS_PER_TASK) for at in range(0, len(numbers), _SHARDS_PER_TASK)])
    tasks.set_name(name)

    def read_all(some: pa.Table) -> pa.Table:
        return pa.concat_tables([read(shard) for shard in some["shard"].to_pylist()])

    return tasks.map_batches(read_all, **_BATCHES)


def brought_together(rows: Dataset, partitions: int, apply: Callable[[pa.Table], pa.Table]) -> list[Any]:
    """References to the results of `apply` for each partition of the rows; equal keys (int64) share a partition.

    Of no rows at all there is one result, without columns.
    """

    def partitioned(some: pa.Table) -> pa.Table:
        spread = some["key"].to_numpy().view(np.uint64) * _SPREAD >> np.uint64(32)
        part = (spread % np.uint64(partitions)).astype(np.int32)
        return set_columns(some, {"partition": pa.array(part)})

    def applied(part: pa.Table) -> pa.Table:
        return apply(part.drop_columns(["partition"]))

    grouped = rows.map_batches(partitioned, **_BATCHES).groupby("partition")
    try:
        return list(grouped.map_groups(applied, batch_format="pyarrow").materialize().to_arrow_refs())
    except RayError as error:
        # Ray Data's shuffle fails where no row is left (`findings/ray_data_shuffle_no_rows.sh`).
        if "FieldRef" not in str(error) or rows.count():
            raise
        return [ray.put(pa.table({}))]


class RayTasks:
    """Functions as tasks of a cluster, on a core each: `curation.duplicates.families.Tasks`."""

    def call(self, function: Callable[..., Any], *args: Any, returns: int) -> list[Any]:
        """References to the results of a function that returns a sequence of them."""
        task = _called.options(name=function.__name__.strip("_"), num_returns=returns, max_retries=RESTARTS)
        references = task.remote(function, *args)
        return list(references) if returns > 1 else [references]

    def values(self, references: Sequence[Any]) -> list[Any]:
        """The results themselves, which come to the driver."""
        return list(ray.get(list(references)))


class _Padded(NamedTuple):
    """A table that is too large for the driver to keep."""

    table: pa.Table
    padding: np.ndarray[Any, Any]


#: Results below 100 kB are kept by the driver and not by the object store, and those that are arguments are kept for
#: as long as what was made of them, to make it again (`max_direct_call_object_size` of Ray).
_SMALL = 120_000


@ray.remote(num_cpus=1)  # type: ignore[untyped-decorator]
def _called(function: Callable[..., Sequence[Any]], *args: Any) -> Any:
    results = function(*(one.table if isinstance(one, _Padded) else one for one in args))
    return tuple(_stored(one) for one in results) if len(results) > 1 else results[0]


def _stored(result: Any) -> Any:
    """A result of several in the form in which the driver does not get it; counts and nothing at all as they are."""
    if not isinstance(result, pa.Table) or not len(result) or result.nbytes > _SMALL:
        return result
    return _Padded(result, np.zeros(_SMALL - result.nbytes, np.uint8))
