"""Expensive stages work on rows, not on shards: their results are kept for rows that did not change.

A shard becomes stale as a whole, even if only one row was dropped or fetched again.  The results of an expensive stage
(a fetch, a model) are then read again, and the stage gets only the rows whose result would change.

reads: the columns that a stage reads, and of pictures what they follow from
adds:  `<stage>_made_from`, for stages of models
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.schema import DROPS, live, set_columns
from curation.stage import Column, Stage
from curation.table import Table
from pairmill.errors import IntegrityError

#: What determines a picture: the fetched bytes, how to store them, and the engine that did it.
PICTURE = ("sha256", "image_settings", "engine")

#: The private columns of a block with the drops of its stale table.
WAS = {name: f"_was_{name}" for name in DROPS}


def was_there(table: str) -> str:
    """The private column that marks blocks with the content of a stale table."""
    return f"_earlier_{table}"


def decided_by(stage: Stage) -> tuple[str, ...]:
    """The columns that decide a stage's result for a row."""
    names = [*stage.reads, *stage.optional]
    return tuple(dict.fromkeys(name for n in names for name in (PICTURE if n == "image" else (n,))))


def what_it_is_made_from(stage: Stage, rows: pa.Table, made_by: str) -> pa.Array:
    """A digest (uint64) for each row of what determines its result.

    made_by: digest of the stage's identity and of its model's revision.
    """
    names = [name for name in decided_by(stage) if name in rows.schema.names]
    values = rows.select(names).to_pylist() if names else [{} for _ in range(len(rows))]
    return pa.array([_digest(made_by, value) for value in values], pa.uint64())


def _digest(made_by: str, value: Mapping[str, object]) -> int:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=repr)
    hashed = hashlib.blake2b(f"{made_by}\0{text}".encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(hashed.digest(), "little")


def earlier_columns(table: Table) -> tuple[Column, ...]:
    """The columns to read again of a table with expensive stages; none of others."""
    if not any(stage.expensive for stage in table.makers):
        return ()
    found: list[Column] = []
    for stage in table.makers:
        found += [*stage.adds, *([stage.made_from] if stage.made_from else [])]
    return tuple(found)


def restored(stage: Stage, rows: pa.Table) -> pa.Table:
    """A block with the content of the stage's stale table, with the rows dropped that the stage had dropped."""
    if WAS["drop_stage"] not in rows.schema.names:
        return rows
    its = _one(pc.and_(live(rows), _dropped_by(stage, rows[WAS["drop_stage"]])))
    return set_columns(rows, {name: pc.if_else(its, rows[was], rows[name]) for name, was in WAS.items()})


def to_be_made(stage: Stage, rows: pa.Table, made_by: str) -> pa.Array:
    """Mask of the rows of a `restored` block to give to the stage: those whose result would change.

    It includes rows that were dropped before the stage, because the stage keeps nothing of them.
    """
    mask = stage.outdated(rows)
    if mask is None:
        if stage.made_from is None:
            raise IntegrityError(f"stage {stage.name} must report which of its rows are outdated")
        made = rows[stage.made_from.name]
        mask = pc.invert(pc.fill_null(pc.equal(made, what_it_is_made_from(stage, rows, made_by)), False))
    return _one(pc.or_(mask, _dropped_before(stage, rows)))


def work_again(
    stage: Stage, rows: pa.Table, again: pa.Array, work: Callable[[pa.Table], pa.Table]
) -> tuple[pa.Table, pa.Table]:
    """`rows`, with those of `again` worked on again and the others unchanged; and the former as the stage left them.

    rows: with the stage's columns and drops from its table.
    work: calls the stage.
    A row that cannot be made again stays unchanged if the stage prefers that.
    """
    own = [column.name for one in (stage, *stage.inner) for column in one.adds]
    its = _dropped_by(stage, rows["drop_stage"])
    cleared = set_columns(rows, {name: pc.if_else(its, pa.scalar(None, pa.string()), rows[name]) for name in DROPS})
    done = work(cleared.filter(again).drop_columns(own)) if pc.any(again).as_py() else rows.slice(0, 0)
    new = done.select(rows.schema.names).cast(rows.schema)
    place = np.arange(len(rows))
    at = place[np.asarray(again)]
    order = np.argsort(np.r_[np.setdiff1d(place, at), at])
    pieces = [rows.filter(pc.invert(again)), stage.preferred(rows.filter(again), new)]
    found = pa.concat_tables(pieces).take(pa.array(order))
    # What the stage reported of its work, in private columns of one value.
    reported = [name for name in done.schema.names if name not in rows.schema.names and name.startswith("_")]
    return set_columns(found, {name: pa.repeat(done[name][0], len(rows)) for name in reported}), done


def with_made_from(stage: Stage, rows: pa.Table, made_by: str) -> pa.Table:
    """`rows`, as a stage left them, with the column of what each result was made from."""
    if stage.made_from is None:
        return rows
    made = what_it_is_made_from(stage, rows, made_by)
    none = pc.or_(_dropped_before(stage, rows), stage.unfinished(rows))
    return set_columns(rows, {stage.made_from.name: pc.if_else(_one(none), pa.scalar(None, pa.uint64()), made)})


def _dropped_by(stage: Stage, drop_stage: pa.ChunkedArray) -> pa.ChunkedArray:
    names = pa.array([one.name for one in (stage, *stage.inner)])
    return pc.fill_null(pc.is_in(drop_stage, names), False)


def _dropped_before(stage: Stage, rows: pa.Table) -> pa.ChunkedArray:
    return pc.and_(pc.is_valid(rows["drop_reason"]), pc.invert(_dropped_by(stage, rows["drop_stage"])))


def _one(mask: pa.Array | pa.ChunkedArray) -> pa.Array:
    return mask.combine_chunks() if isinstance(mask, pa.ChunkedArray) else mask
