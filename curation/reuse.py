"""Expensive stages work on rows, not on shards: their results are kept for rows that did not change.

A shard becomes stale as a whole, even if only one row was dropped or fetched again.  The results of an expensive stage
(a fetch, a model) are then read again, and the stage gets only the rows whose result would change.  A row that an
earlier stage drops keeps a model's result in the table, unused, until it comes back; only the results of a picture that
was erased go with it.

reads: the columns that a stage reads, of pictures what they follow from, and whether there is one
adds:  `<stage>_made_from` for stages with models, unfinished rows included; `<stage>_verdict` for those that drop rows
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.download import has_picture
from curation.input_column import list_column
from curation.schema import DROPS, live, set_columns
from curation.stage import Column, Stage, as_mask
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
    names = stage.decided_by if stage.decided_by is not None else (*stage.reads, *stage.optional)
    return tuple(dict.fromkeys(name for n in names for name in (PICTURE if n == "image" else (n,))))


def reads_for_reuse(stage: Stage) -> tuple[str, ...]:
    """The columns that decide which rows of a stage are worked on again; none if it is not expensive."""
    return (*decided_by(stage), "status") if stage.expensive else ()


def what_it_is_made_from(stage: Stage, rows: pa.Table, made_by: str) -> pa.Array:
    """A digest (uint64) for each row of what determines its result.

    made_by: digest of the stage's identity and of its model's revision.
    """
    columns = {name: column for name in decided_by(stage) if (column := _column(stage, rows, name)) is not None}
    values = pa.table(columns).to_pylist() if columns else [{} for _ in range(len(rows))]
    return pa.array([_digest(made_by, value) for value in values], pa.uint64())


def _column(stage: Stage, rows: pa.Table, name: str) -> pa.ChunkedArray | None:
    if name in rows.schema.names:
        return rows[name]
    return list_column(rows, name) if stage.reads_input else None


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
        found += [*stage.adds, *stage.kept_beside]
    return tuple(found)


def earlier_drops(table: Table) -> tuple[str, ...]:
    """The drop columns to read again: those of a fetch.  A stage with a model has its verdict, or drops nothing."""
    return DROPS if any(stage.expensive and stage.made_from is None for stage in table.makers) else ()


def restored(stage: Stage, rows: pa.Table) -> pa.Table:
    """A block with the content of the stage's stale table, with the rows dropped that the stage had dropped."""
    if stage.verdict is not None:
        verdict = rows[stage.verdict.name]
        its = _one(pc.and_(live(rows), pc.is_valid(verdict)))
        restored = {"drop_stage": pa.scalar(stage.name), "drop_reason": verdict}
        return set_columns(rows, {name: pc.if_else(its, value, rows[name]) for name, value in restored.items()})
    if WAS["drop_stage"] not in rows.schema.names:
        return rows
    its = _one(pc.and_(live(rows), _dropped_by(stage, rows[WAS["drop_stage"]])))
    return set_columns(rows, {name: pc.if_else(its, rows[was], rows[name]) for name, was in WAS.items()})


def to_be_made(stage: Stage, rows: pa.Table, made_by: str) -> pa.Array:
    """Mask of the rows of a `restored` block to give to the stage: those whose result would change, or is unfinished.

    Of the rows that were dropped before the stage, those without a result to keep.
    """
    mask = stage.outdated(rows)
    if mask is None:
        mask = pc.invert(pc.and_(_of_the_same(stage, rows, made_by), finished(stage, rows)))
    return _one(pc.if_else(_dropped_before(stage, rows), pc.invert(_set_aside(stage, rows)), mask))


def finished(stage: Stage, rows: pa.Table) -> pa.ChunkedArray:
    """Mask of the rows with a result of a stage with a model that is not `unfinished`."""
    return pc.and_(pc.is_valid(_made_from(stage, rows)), pa.array(~as_mask(stage.unfinished(rows))))


def _of_the_same(stage: Stage, rows: pa.Table, made_by: str) -> pa.ChunkedArray:
    """Mask of the rows whose result was made from what they are now, by what makes it now."""
    return pc.fill_null(pc.equal(_made_from(stage, rows), what_it_is_made_from(stage, rows, made_by)), False)


def _made_from(stage: Stage, rows: pa.Table) -> pa.ChunkedArray:
    if stage.made_from is None:
        raise IntegrityError(f"stage {stage.name} must report which of its rows are outdated")
    return rows[stage.made_from.name]


def _set_aside(stage: Stage, rows: pa.Table) -> pa.ChunkedArray:
    """Mask of the rows with a model's result that may be kept although the row is dropped."""
    if stage.made_from is None:
        return pc.is_null(rows["uid"])
    made = pc.is_valid(rows[stage.made_from.name])
    return pc.and_(made, has_picture(rows)) if "status" in rows.schema.names else made


def work_again(
    stage: Stage, rows: pa.Table, again: pa.Array, made_by: str, work: Callable[[pa.Table], pa.Table]
) -> tuple[pa.Table, pa.Table]:
    """`rows`, with those of `again` worked on again and the others unchanged; and the former as the stage left them.

    rows: with the stage's columns and drops from its table.
    work: calls the stage.
    A row that cannot be made again stays unchanged if the stage prefers that, or if it was and is unfinished and had
    more of the same.
    """
    own = [column.name for one in (stage, *stage.inner) for column in one.adds]
    its = _dropped_by(stage, rows["drop_stage"])
    cleared = set_columns(rows, {name: pc.if_else(its, pa.scalar(None, pa.string()), rows[name]) for name in DROPS})
    forgotten = {column.name: pa.scalar(None, column.type) for column in stage.kept_beside}
    cleared = set_columns(cleared, {name: pc.if_else(again, none, cleared[name]) for name, none in forgotten.items()})
    done = work(cleared.filter(again).drop_columns(own)) if pc.any(again).as_py() else rows.slice(0, 0)
    new = done.select(rows.schema.names).cast(rows.schema)
    place = np.arange(len(rows))
    at = place[np.asarray(again)]
    order = np.argsort(np.r_[np.setdiff1d(place, at), at])
    old = rows.filter(again)
    pieces = [rows.filter(pc.invert(again)), _unless_less(stage, old, stage.preferred(old, new), made_by)]
    found = pa.concat_tables(pieces).take(pa.array(order))
    # What the stage reported of its work, in private columns of one value.
    reported = [name for name in done.schema.names if name not in rows.schema.names and name.startswith("_")]
    return set_columns(found, {name: pa.repeat(done[name][0], len(rows)) for name in reported}), done


def _unless_less(stage: Stage, old: pa.Table, new: pa.Table, made_by: str) -> pa.Table:
    """The new rows, but the old one where both are unfinished, of the same, and the new one has fewer good results."""
    if stage.made_from is None or not len(new):
        return new
    # What was made of a picture that is gone goes with it, so of dropped rows nothing stays.
    stays = as_mask(_of_the_same(stage, old, made_by)) & ~as_mask(_dropped_before(stage, old))
    stays &= as_mask(stage.unfinished(old)) & as_mask(stage.unfinished(new))
    stays &= np.asarray(stage.usable(new)) < np.asarray(stage.usable(old))
    place = np.arange(len(new))
    return pa.concat_tables([old, new]).take(pa.array(np.where(stays, place, place + len(new))))


def with_made_from(stage: Stage, rows: pa.Table, made_by: str) -> pa.Table:
    """`rows`, as a stage left them, with the columns of what each result was made from and of the stage's verdict."""
    if stage.made_from is None:
        return rows
    new = {stage.made_from: what_it_is_made_from(stage, rows, made_by)}
    if stage.verdict is not None:
        new[stage.verdict] = pc.if_else(_dropped_by(stage, rows["drop_stage"]), rows["drop_reason"], None)
    before = _one(_dropped_before(stage, rows))
    for (name, kind, *_), values in new.items():
        earlier = rows[name] if name in rows.schema.names else pa.nulls(len(rows), kind)
        rows = set_columns(rows, {name: pc.if_else(before, earlier, values)})
    return rows


def _dropped_by(stage: Stage, drop_stage: pa.ChunkedArray) -> pa.ChunkedArray:
    names = pa.array([one.name for one in (stage, *stage.inner)])
    return pc.fill_null(pc.is_in(drop_stage, names), False)


def _dropped_before(stage: Stage, rows: pa.Table) -> pa.ChunkedArray:
    return pc.and_(pc.is_valid(rows["drop_reason"]), pc.invert(_dropped_by(stage, rows["drop_stage"])))


def _one(mask: pa.Array | pa.ChunkedArray) -> pa.Array:
    return mask.combine_chunks() if isinstance(mask, pa.ChunkedArray) else mask
