"""A row is worked on because of itself, not of its shard: what dear stages made is kept for rows that did not change.

A shard becomes stale as a whole: one row of it was dropped, or fetched again.  What a dear stage (a fetch, a model) had
made of the shard is then read again, and only the rows go to the stage whose result would be another one.

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

#: What a picture follows from: the bytes that were fetched, how they were to be stored, and by whom that was done.
PICTURE = ("sha256", "image_settings", "engine")

#: The private columns of a block whose table was there before, though not as it should be: that it was, and its drops.
WAS = {name: f"_was_{name}" for name in DROPS}


def was_there(table: str) -> str:
    """The private column of blocks that hold what a table that is to be made again had."""
    return f"_earlier_{table}"


def decided_by(stage: Stage) -> tuple[str, ...]:
    """The columns that decide what a stage makes of a row."""
    names = [*stage.reads, *stage.optional]
    return tuple(dict.fromkeys(name for n in names for name in (PICTURE if n == "image" else (n,))))


def what_it_is_made_from(stage: Stage, rows: pa.Table, made_by: str) -> pa.Array:
    """A digest (uint64) for each row of what its result follows from.

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
    """What is read again of a table whose stages are dear; nothing of others."""
    if not any(stage.expensive for stage in table.makers):
        return ()
    found: list[Column] = []
    for stage in table.makers:
        found += [*stage.adds, *([stage.made_from] if stage.made_from else [])]
    return tuple(found)


def restored(stage: Stage, rows: pa.Table) -> pa.Table:
    """A block that holds what the stage's table had, with the rows dropped that the stage had dropped."""
    if WAS["drop_stage"] not in rows.schema.names:
        return rows
    its = _one(pc.and_(live(rows), _dropped_by(stage, rows[WAS["drop_stage"]])))
    return set_columns(rows, {name: pc.if_else(its, rows[was], rows[name]) for name, was in WAS.items()})


def to_be_made(stage: Stage, rows: pa.Table, made_by: str) -> pa.Array:
    """Mask of the rows to give to the stage, of a `restored` block: those whose result would be another one.

    Rows that were dropped before the stage are among them, because of such a row it keeps nothing.
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
    """`rows`, those of `again` worked on anew and the others as they were; and the former as the stage left them.

    rows: with the stage's columns as its table had them, and dropped where it had dropped them.
    work: the stage's work, as it is called.
    A row that cannot be made anew stays what it was, where the stage prefers that.
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
    # What the stage told of its work, in private columns of one value.
    told = [name for name in done.schema.names if name not in rows.schema.names and name.startswith("_")]
    return set_columns(found, {name: pa.repeat(done[name][0], len(rows)) for name in told}), done


def with_made_from(stage: Stage, rows: pa.Table, made_by: str) -> pa.Table:
    """`rows`, as a stage left them, with the column that says what each result was made from."""
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
