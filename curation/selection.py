"""Selections: which rows of a run are kept, as narrow tables beside the pixels.

A global step (deduplication; later balancing, quantiles, decontamination) results in a table of losers.  It is written
as `selections/<name>/shard-*.parquet` (uid, keep, reason, duplicate_group), so many selections can share the same
images.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from curation.schema import drop, set_columns
from pairmill.errors import IntegrityError


def selection_rows(rows: pa.Table, members: pa.Table) -> pa.Table:
    """uid, keep, reason, duplicate_group of one shard: dropped rows with the reason they had, losers with their own.

    rows:    uid, drop_reason of the shard, in its order.
    members: row (int32, position in the shard), reason (null: the row stays), survivor (uid of the best row of the
             family) of the rows that have duplicates.
    Raises IntegrityError for a member that was dropped before.
    """
    reason = rows["drop_reason"].to_pylist()
    group: list[str | None] = [None] * len(rows)
    for at, why, best in zip(*(members[name].to_pylist() for name in ("row", "reason", "survivor")), strict=True):
        if reason[at] is not None:
            raise IntegrityError(f"a global step must not drop a row twice: {reason[at]} before, now {why}")
        reason[at], group[at] = why, best
    reasons = pa.array(reason, pa.string())
    columns = {"uid": rows["uid"], "keep": pc.is_null(reasons), "reason": reasons}
    return pa.table({**columns, "duplicate_group": pa.array(group, pa.string())})


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
