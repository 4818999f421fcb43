"""A selection drops live rows only, and keeps just the rows that it gives no reason to drop."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from damage import RunUpto, rewrite
from run_fixture import shard_with

from curation.duplicates.stage import Deduplicate
from curation.schema import set_columns
from curation.selection import apply_selection, selection_rows
from curation.shards import Work, read_shard
from pairmill.errors import IntegrityError
from pairmill.layout import FILTER_TABLE
from pairmill.store import Store

SELECTION = "selections/default"


def test_a_row_that_was_dropped_before_cannot_lose(run_upto: RunUpto) -> None:
    store = run_upto("filter")
    rows = store.load(FILTER_TABLE, shard_with(store, "nsfw"))
    at = rows["drop_reason"].to_pylist().index("nsfw")
    losers = pa.table({"row": pa.array([at], pa.int32()), "reason": ["duplicate_image"], "survivor": ["u"]})
    with pytest.raises(IntegrityError, match=r"nsfw.*duplicate_image"):
        selection_rows(rows, losers)


def _selected(store: Store, shard: int) -> pa.Table:
    """The rows as the rewriting segment reads them."""
    work = Work(shard, {name: store.index(name)[shard].content for name in (FILTER_TABLE, SELECTION)})
    columns = {FILTER_TABLE: ("drop_stage", "drop_reason"), SELECTION: ("keep", "reason")}
    return apply_selection(read_shard(store, work, columns), Deduplicate.name, Deduplicate.drops)


@pytest.mark.parametrize("keep", [True, False])
def test_a_selection_that_contradicts_itself_is_not_applied(keep: bool, run_upto: RunUpto) -> None:
    store = run_upto("select")
    shard = shard_with(store, "nsfw")
    _selected(store, shard)
    rewrite(store, SELECTION, shard, lambda rows: set_columns(rows, {"keep": pc.if_else(True, keep, rows["keep"])}))
    with pytest.raises(IntegrityError, match="a selection must keep"):
        _selected(store, shard)


def test_a_selection_whose_reason_is_no_stage_s_is_not_applied(run_upto: RunUpto) -> None:
    store = run_upto("select")
    shard = shard_with(store, "same-x")
    rewrite(
        store,
        SELECTION,
        shard,
        lambda rows: set_columns(
            rows, {"keep": pa.array([False] * len(rows)), "reason": pa.array(["gone with the wind"] * len(rows))}
        ),
    )
    with pytest.raises(IntegrityError, match="a selection must keep"):
        _selected(store, shard)
