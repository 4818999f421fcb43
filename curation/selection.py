"""Selections: which rows of a run are kept, as narrow tables beside the pixels.

A global step results in a table of losers.  It is written as `selections/<name>/shard-*.parquet` (uid, keep, reason,
duplicate_group), so many selections can share the same images.

Where duplicates stay (`keep: all`), a row has a `group_id` too: a number that all rows of its family have, and no other
row.  Training takes rows of one number as no negatives of each other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.schema import drop, set_columns
from curation.selections.uids import uids_of
from curation.stage import Column
from pairmill import layout
from pairmill.errors import IntegrityError

#: The family of a row; and its number, where duplicates stay.
GROUP = Column("duplicate_group", pa.string(), "uid of the best row of its family of duplicates; null without any")
GROUP_ID = Column(
    layout.GROUP_ID,
    pa.int64(),
    "number of its family of duplicates, of which every row stays (`keep: all`); null: it is left out",
    carried=True,
)


def selection_rows(rows: pa.Table, members: pa.Table, *, keep: str = "best") -> pa.Table:
    """uid, keep, reason, duplicate_group of one shard: dropped rows with the reason they had, losers with their own.

    rows:    uid, drop_reason of the shard, in its order.
    members: row (int32, position in the shard), reason (null: the row stays), survivor (uid of the best row of the
             family) of the rows that have duplicates.
    keep:    best; or all: no member is dropped, and there is a column `group_id`.
    Raises IntegrityError for a member that was dropped before.
    """
    reason = rows["drop_reason"].to_pylist()
    for at, why in zip(*(members[name].to_pylist() for name in ("row", "reason")), strict=True):
        if reason[at] is not None:
            raise IntegrityError(f"a global step must not drop a row twice: {reason[at]} before, now {why}")
        reason[at] = why if keep == "best" else None
    reasons = pa.array(reason, pa.string())
    group = groups_of(members, len(rows))
    columns = {"uid": rows["uid"], "keep": pc.is_null(reasons), "reason": reasons, GROUP.name: group}
    if keep == "all":
        columns[GROUP_ID.name] = group_ids_of(rows["uid"], group, columns["keep"])
    return pa.table(columns)


def groups_of(members: pa.Table, rows: int) -> pa.Array:
    """The column `duplicate_group` of a shard of so many rows.  members: as for `selection_rows`."""
    group: list[str | None] = [None] * rows
    for at, best in zip(members["row"].to_pylist(), members["survivor"].to_pylist(), strict=True):
        group[at] = best
    return pa.array(group, pa.string())


def group_ids_of(uids: pa.ChunkedArray, group: pa.Array, keep: pa.Array | pa.ChunkedArray) -> pa.Array:
    """The column `group_id`: 63 bits of the uid of the family's best row, or of the row's own; null if it goes."""
    best = pc.coalesce(pa.chunked_array([group]), uids)
    numbers = (uids_of(best)[0]["f0"] & np.uint64(2**63 - 1)).astype(np.int64)
    return pa.array(numbers, mask=~np.asarray(keep, np.bool_))


def apply_selection(rows: pa.Table, stage: str, reasons: Sequence[str], later: Sequence[str] = ()) -> pa.Table:
    """Drop what the loaded selection (columns keep, reason) does not keep, and free the pixels of dropped rows.

    stage, reasons: of the global step that made the selection.  later: the stages after it, which may have dropped
    rows that it keeps.
    Raises IntegrityError for a selection that does not fit the drops before it.
    """
    rows_kept = pc.and_(rows["keep"], pc.invert(pc.is_in(rows["drop_stage"], pa.array(later, pa.string()))))
    masks = {name: pc.equal(rows["reason"], name) for name in reasons}
    rows = drop(rows, stage, masks, reasons).drop_columns(["keep", "reason"])
    if not pc.all(pc.equal(pc.is_null(rows["drop_reason"]), rows_kept), min_count=0).as_py():
        raise IntegrityError("a selection must keep exactly the rows without a reason to drop them")
    return without_dropped_pixels(rows)


def without_dropped_pixels(rows: pa.Table) -> pa.Table:
    """The rows, without the pictures of dropped ones."""
    if "image" not in rows.schema.names:
        return rows
    image = rows["image"].combine_chunks()
    return set_columns(rows, {"image": pc.if_else(pc.is_null(rows["drop_reason"]), image, pa.scalar(None, image.type))})
