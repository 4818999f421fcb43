"""Find the duplicates of the whole run, of all active kinds, and keep the best of each family.

reads: uid, and what the kinds (`curation.duplicates.kinds`) and `deduplicate.score` name
adds:  —
drops: the name of each kind

A global step on narrow tables.  The driver brings rows together and these pure functions do the rest:

    rows of a shard -> sample_of -> fitted, for the kinds that learn something first
    rows of a shard -> met_rows -> (bring equal `key` together) -> found_edges -> families -> the losers

Duplicates are transitive: A like B and B like C makes one family.  Its row with the highest score stays, and among
equal scores the one with the smallest uid; a row of another run (`curation.duplicates.other_runs`) is above all of this
one.  So the result does not depend on the order of the rows, on how they are divided, or on the number of machines.

The reason of a dropped row is the strongest kind that joins it to a better row: the first kind, starting from the
strongest, for which the edges of this kind and of all stronger ones connect the row to one of higher rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curation.duplicates.edges import EDGES, ENDPOINT, edges_between
from curation.duplicates.families import MEMBERS, InProcess, families
from curation.duplicates.fitting import fitted_to
from curation.duplicates.kinds import KEYS, PIXELS, DeduplicateConfig, Indices, Kind, kinds_of
from curation.duplicates.narrowing import called, narrowed
from curation.duplicates.other_runs import best_elsewhere
from curation.schema import set_columns
from pairmill.errors import IntegrityError

#: Schema of `survivors`: one line for each row to be dropped, with the uid of the row that stays instead.
LOSERS = MEMBERS


def scores(rows: pa.Table, name: str) -> pa.ChunkedArray:
    """The score (float64) that `deduplicate.score` names."""
    if name == PIXELS:
        return pc.multiply(rows["original_width"].cast(pa.float64()), rows["original_height"].cast(pa.float64()))
    return rows[name].cast(pa.float64())


def met_schema(kinds: Sequence[Kind]) -> pa.Schema:
    """The schema of `met_rows`."""
    own = [pa.field(_own(kind, field.name), field.type) for kind in kinds for field in kind.columns]
    return pa.schema([*ENDPOINT, ("kind", pa.int8()), ("key", pa.int64()), *own])


def met_rows(rows: pa.Table, *, kinds: Sequence[Kind]) -> pa.Table:
    """Each row once for each of its kinds and keys, with what that kind compares; schema `met_schema`.

    rows:  columns `ENDPOINT` and what the kinds read.
    kinds: strongest first, those that learn from a sample with what they learnt.
    """
    schema = met_schema(kinds)
    met = [schema.empty_table()]
    narrows = [narrowed(kind, rows) for kind in kinds]
    for kind, narrow in zip(kinds, narrows, strict=True):
        if kind.ranks:
            rows = set_columns(rows, {"score": _rank(kind, narrow)})
    rows = best_elsewhere(rows)
    for code, (kind, narrow) in enumerate(zip(kinds, narrows, strict=True)):
        keys = _keys(kind, narrow)
        picked = rows.select(ENDPOINT.names).take(keys["row"])
        columns = {name: picked[name] for name in ENDPOINT.names}
        columns |= {"kind": pa.repeat(pa.scalar(code, pa.int8()), len(keys)), "key": keys["key"]}
        compared = narrow.take(keys["row"])
        columns |= {_own(kind, name): compared[name] for name in kind.columns.names}
        missing = {field.name: pa.nulls(len(keys), field.type) for field in schema if field.name not in columns}
        met.append(pa.table(columns | missing).select(schema.names).cast(schema))
    return pa.concat_tables(met)


def found_edges(met: pa.Table, *, kinds: Sequence[Kind]) -> pa.Table:
    """The edges of all kinds among rows that were brought together; schema `EDGES`.

    met:   schema `met_schema`, with all rows of each key that occurs; one key or any number of them.
    kinds: as for `met_rows`.
    """
    edges = [EDGES.empty_table()]
    for code, kind in enumerate(kinds):
        rows = met if len(kinds) == 1 else met.filter(pc.equal(met["kind"], code))
        own = {name: rows[_own(kind, name)] for name in kind.columns.names}
        a, b = _edges(kind, pa.table({**own, "key": rows["key"]}))
        edges.append(edges_between(rows, a, b, kind=code))
    return pa.concat_tables(edges)


def survivors(edges: pa.Table, *, kinds: Sequence[Kind], partitions: int = 1) -> pa.Table:
    """All rows but the best of each connected component, ordered by shard and row; schema `LOSERS`.

    edges: schema `EDGES`, of all kinds and partitions together, in any order.
    kinds: as for `met_rows`.
    partitions: how many the components are divided into; the result is the same for any number.
    """
    members = pa.concat_tables([MEMBERS.empty_table(), *families([edges], kinds, partitions, InProcess())])
    return members.filter(members["reason"].is_valid()).sort_by([("shard", "ascending"), ("row", "ascending")])


def find_losers(rows: pa.Table, *, config: DeduplicateConfig) -> pa.Table:
    """The whole step, for rows that fit in memory; schema `LOSERS`.

    rows: as for `met_rows`.  The driver gets the same result over a cluster.
    """
    members = find_members(rows, config=config)
    return members.filter(members["reason"].is_valid())


def find_members(rows: pa.Table, *, config: DeduplicateConfig) -> pa.Table:
    """Every row that has duplicates, the best of each family too, ordered by shard and row; schema `MEMBERS`.

    rows: as for `met_rows`.
    """
    kinds = fitted_to(kinds_of(config.resolved(rows.schema.names)), rows)
    edges = found_edges(met_rows(rows, kinds=kinds), kinds=kinds)
    return pa.concat_tables([MEMBERS.empty_table(), *families([edges], kinds, 1, InProcess())]).sort_by(
        [("shard", "ascending"), ("row", "ascending")]
    )


def _rank(kind: Kind, narrow: pa.Table) -> pa.Array:
    """A kind's rank of each row.  Raises IntegrityError for anything but a number for each."""
    rank = called(kind, lambda: kind.rank(narrow))
    if not isinstance(rank, pa.Array | pa.ChunkedArray) or len(rank) != len(narrow) or rank.type != pa.float64():
        raise IntegrityError(f"the kind {kind.name} must rank each row by a float64")
    return rank


def _keys(kind: Kind, narrow: pa.Table) -> pa.Table:
    """A kind's keys.  Raises IntegrityError for another form than `KEYS`, and for rows that it was not given."""
    keys = called(kind, lambda: kind.keys(narrow))
    found = keys.schema if isinstance(keys, pa.Table) else type(keys).__name__
    if found != KEYS:
        raise IntegrityError(f"the kind {kind.name} must give its keys as a table of schema KEYS; found: {found}")
    if keys["row"].null_count or keys["key"].null_count or not _within(keys["row"].to_numpy(), len(narrow)):
        raise IntegrityError(f"the kind {kind.name} must give keys of rows that it was given, and no null")
    return keys


def _edges(kind: Kind, rows: pa.Table) -> tuple[Indices, Indices]:
    """A kind's edges.  Raises IntegrityError for anything but two equally long arrays of positions in `rows`."""
    found = called(kind, lambda: kind.edges(rows))
    a, b = (np.asarray(end) for end in found) if isinstance(found, list | tuple) and len(found) == 2 else (None, None)
    if a is None or b is None or a.shape != b.shape or not (_within(a, len(rows)) and _within(b, len(rows))):
        raise IntegrityError(
            f"the kind {kind.name} must give its edges as two equally long arrays of positions in the rows it was given"
        )
    return a.astype(np.int64), b.astype(np.int64)


def _within(positions: npt.NDArray[Any], rows: int) -> bool:
    """Whether they are positions of so many rows, in one dimension."""
    if positions.ndim != 1 or not len(positions):
        return positions.ndim == 1
    return bool(np.issubdtype(positions.dtype, np.integer) and positions.min() >= 0 and positions.max() < rows)


def _own(kind: Kind, column: str) -> str:
    return f"{kind.name}.{column}"
