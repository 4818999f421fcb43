"""A block of Ray Data is one shard, and is committed as that or not at all."""

from __future__ import annotations

import pyarrow as pa
import pytest
from damage import RunUpto

from curation.results.outcome import open_run
from curation.shards import ShardSink, Work, read_shard
from pairmill.errors import IntegrityError


def test_a_block_of_two_shards_is_not_committed(run_upto: RunUpto) -> None:
    store = run_upto("filter")
    table = open_run(store).tables.named("columns/filter")
    before = store.index("columns/filter")
    blocks = [
        read_shard(store, Work(shard, {"columns/filter": before[shard].content}), {"columns/filter": table.columns})
        for shard in (0, 1)
    ]
    block = pa.concat_tables(blocks).drop_columns(["_content_columns/filter"])
    with pytest.raises(IntegrityError, match="a block must"):
        ShardSink(store, [table], run=2).write([block], None)
    assert store.index("columns/filter") == before
