"""Selections: which rows of a run go on, as narrow tables beside the pixels.

A global step (deduplication; later balancing, quantiles, decontamination) ends in a table of losers.  It is written as
`selections/<name>/shard-*.parquet` (uid, keep, reason), so many selections can live over the same images.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from curation.schema import DROP_REASONS, Stage, drop, set_columns


def selection_rows(rows: pa.Table, losers: pa.Table) -> pa.Table:
    """uid, keep, reason of one shard: dropped rows with the reason they already had, losers with their own.

    rows:   uid, drop_reason of the shard, in its order.
    losers: row (int32, position in the shard), reason.
    """
    reason = rows["drop_reason"].to_pylist()
    for at, why in zip(losers["row"].to_pylist(), losers["reason"].to_pylist(), strict=True):
        assert reason[at] is None, "a dropped row cannot lose a global step"
        reason[at] = why
    reasons = pa.array(reason, pa.string())
    return pa.table({"uid": rows["uid"], "keep": pc.is_null(reasons), "reason": reasons})


def apply_selection(rows: pa.Table) -> pa.Table:
    """Drop what the loaded selection (columns keep, reason) does not keep, and let go of the pixels of dropped rows."""
    masks = {name: pc.equal(rows["reason"], name) for name in DROP_REASONS[Stage.DEDUPLICATE]}
    rows = drop(rows, Stage.DEDUPLICATE, masks).drop_columns(["keep", "reason"])
    if "image" not in rows.schema.names:
        return rows
    image = rows["image"].combine_chunks()
    return set_columns(rows, {"image": pc.if_else(pc.is_null(rows["drop_reason"]), image, pa.scalar(None, image.type))})
