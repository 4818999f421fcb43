"""Selections: which rows of a run go on, as narrow tables beside the pixels.

A global step (deduplication; later balancing, quantiles, decontamination) ends in a table of losers.  It is written as
`selections/<name>/shard-*.parquet` (uid, keep, reason), so many selections can live over the same images.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from curation.schema import Stage, live, set_columns
from pairmill.errors import IntegrityError


def selection_rows(rows: pa.Table, losers: pa.Table) -> pa.Table:
    """uid, keep, reason of one shard: dropped rows with the reason they already had, losers with their own.

    rows:   uid, drop_reason of the shard, in its order.
    losers: row (int32, position in the shard), reason.
    Raises IntegrityError for a loser that was dropped before.
    """
    reason = rows["drop_reason"].to_pylist()
    for at, why in zip(losers["row"].to_pylist(), losers["reason"].to_pylist(), strict=True):
        if reason[at] is not None:
            raise IntegrityError(f"a row that was dropped before cannot lose a global step: {reason[at]}, then {why}")
        reason[at] = why
    reasons = pa.array(reason, pa.string())
    return pa.table({"uid": rows["uid"], "keep": pc.is_null(reasons), "reason": reasons})


def apply_selection(rows: pa.Table) -> pa.Table:
    """Drop what the loaded selection (columns keep, reason) does not keep, and let go of the pixels of dropped rows."""
    # Of the table itself: which kinds of duplicates there are is known where it was made, and need not be known here.
    loses = pc.and_(live(rows), pc.is_valid(rows["reason"]))
    drops = {
        "drop_stage": pc.if_else(loses, Stage.DEDUPLICATE.value, rows["drop_stage"]),
        "drop_reason": pc.if_else(loses, rows["reason"], rows["drop_reason"]),
    }
    rows = set_columns(rows, drops).drop_columns(["keep", "reason"])
    if "image" not in rows.schema.names:
        return rows
    image = rows["image"].combine_chunks()
    return set_columns(rows, {"image": pc.if_else(pc.is_null(rows["drop_reason"]), image, pa.scalar(None, image.type))})
