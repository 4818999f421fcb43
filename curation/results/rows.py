"""Write what became of every input row, kept or not: one row each, in the order of the input.

adds: uid, url, status, http_status, drop_stage, drop_reason, error, and the columns of the input list

The shards are in a shuffled order, so this is an external sort by `index`: rows are dealt into files by ranges of the
index, and each file is sorted in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.forget.tombstones import copying
from curation.input_column import with_input
from curation.plan import input_type
from curation.results.outcome import Run, open_run, read_outcome
from pairmill.atomic import whole_file
from pairmill.errors import IntegrityError
from pairmill.store import Store

#: The columns before those of the input.
OWN = pa.schema(
    [
        ("uid", pa.string()),
        ("url", pa.string()),
        ("status", pa.string()),
        ("http_status", pa.int16()),
        ("drop_stage", pa.string()),
        ("drop_reason", pa.string()),
        ("error", pa.string()),
    ]
)

#: Rows of a range; they are sorted in memory, at a few hundred bytes each.
_RANGE_ROWS = 131_072
#: Every range is an open file.
_MAX_RANGES = 512


def write_rows(store: Store, path: Path | str, selection: str = "default") -> int:
    """Write the parquet file; returns its number of rows, which is that of the input.

    A row that is not fetched yet has no status; a kept one has no drop_stage.  An input column whose name is one of
    ours gets the prefix `input_`.  The URL and the alt text also keep their own names.
    Raises RunDirError if nothing is planned or rows are being forgotten, IntegrityError if a row of the input is
    missing or occurs twice; then there is no file.
    """
    with whole_file(Path(path)) as stream, copying(store), store.scratch("rows") as scratch:
        run = open_run(store, selection)
        ranges = min(_MAX_RANGES, 1 + run.plan.rows // _RANGE_ROWS)
        size = -(-run.plan.rows // ranges)
        schema = _deal(_pieces(run), scratch, size)
        written = 0
        with pq.ParquetWriter(stream, schema, compression="zstd", write_page_checksum=True) as writer:
            for piece in _sorted(scratch):
                in_order = np.arange(written, written + len(piece))
                if not np.array_equal(piece["index"], in_order):
                    raise IntegrityError(f"every row of the input must occur once; from row {written:,} on they do not")
                writer.write_table(piece.drop_columns(["index"]), row_group_size=_RANGE_ROWS)
                written += len(piece)
        if written != run.plan.rows:
            raise IntegrityError(f"every planned row must be written: {written} written, {run.plan.rows} planned")
    return written


def _pieces(run: Run) -> Iterator[pa.Table]:
    """`index` and the columns of the file, shard by shard."""
    kind = input_type(run.store, run.plan.inputs[-1])
    columns = input_columns([field.name for field in kind or ()], run.recipe.get("input") or {})
    for listed in run.plan.inputs:
        own = () if input_type(run.store, listed) is None else ("input",)
        for shard in listed.shard_numbers():
            wanted = ("index", "url", "alt", *own, "status", "http_status", "error")
            rows = with_input(read_outcome(run, shard, wanted).rows, kind)
            yield _piece(rows, columns)


def _piece(rows: pa.Table, columns: Mapping[str, str | int]) -> pa.Table:
    piece = {"index": rows["index"]}
    for field in OWN:
        there = field.name in rows.schema.names
        piece[field.name] = rows[field.name].cast(field.type) if there else pa.nulls(len(rows), field.type)
    for name, source in columns.items():
        piece[name] = rows[source] if isinstance(source, str) else pc.struct_field(rows["input"], source)
    return pa.table(piece)


def input_columns(inner: Sequence[str], recipe: Mapping[str, Any]) -> dict[str, str | int]:
    """Column of the file -> its source in the plan (a column, or a position in `input`), without clashes of names.

    inner:  names of the list's columns except URL and alt text.
    recipe: the section `input` of the recipe.
    """
    url, text = recipe.get("url_column", "url"), recipe.get("text_column", "text")
    sources: list[tuple[str, str | int]] = []
    if url != "url":
        sources.append((url, "url"))
    if text is not None:
        sources.append((text, "alt"))
    sources += [(name, at) for at, name in enumerate(inner)]
    columns: dict[str, str | int] = {}
    for name, source in sources:
        while name in columns or name in OWN.names:
            name = f"input_{name}"
        columns[name] = source
    return columns


def _deal(pieces: Iterator[pa.Table], scratch: Path, size: int) -> pa.Schema:
    """Write each row into the file of its range of `size` indices; returns the schema without `index`."""
    writers: dict[int, pa.ipc.RecordBatchFileWriter] = {}
    schema = pa.schema([])
    for batch in _batched(pieces):
        schema = batch.schema
        ranges = batch["index"].to_numpy() // size
        for number in np.unique(ranges):
            if number not in writers:
                writers[number] = pa.ipc.new_file(str(scratch / f"{number}.arrow"), schema)
            writers[number].write_table(batch.filter(pa.array(ranges == number)))
    for writer in writers.values():
        writer.close()
    return schema.remove(schema.get_field_index("index"))


def _batched(pieces: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in larger tables: a shard has few rows of each range, and every write has a cost."""
    held: list[pa.Table] = []
    for piece in pieces:
        held.append(piece)
        if sum(map(len, held)) >= _RANGE_ROWS:
            yield pa.concat_tables(held)
            held = []
    if held:
        yield pa.concat_tables(held)


def _sorted(scratch: Path) -> Iterator[pa.Table]:
    """The rows of every range, sorted by index, range by range."""
    for spill in sorted(scratch.glob("*.arrow"), key=lambda file: int(file.stem)):
        with pa.memory_map(str(spill)) as source:
            table = pa.ipc.open_file(source).read_all()
            # Not sort_by, which imports pandas.
            yield table.take(pc.sort_indices(table["index"])).combine_chunks()
        spill.unlink()
