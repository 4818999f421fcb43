"""The column `input`: what a list had in addition to URL and alt text, as one type over all lists of a run.

A list that extends a run may have new columns.  No shard is rewritten for them: each list's shards have the columns of
the lists before it and then its own, so the last list has all, and readers fill in what others lack.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from curation.inputs.columns import common_type
from curation.schema import set_columns
from pairmill.errors import InputError


def merged_fields(planned: pa.StructType, more: pa.StructType) -> pa.StructType:
    """The type of the `input` column of a run with the columns `planned`, extended by a list with `more`.

    Columns keep their places and types (one without values so far takes the new type), and new ones follow.
    Raises InputError for a column whose new type has values that the planned one cannot hold.
    """
    merged = {field.name: field for field in planned}
    for field in more:
        known = merged.setdefault(field.name, field)
        if known.type == pa.null():
            merged[field.name] = field
        elif not _fits(field.type, known.type):
            raise InputError(
                "a list that extends a run must have the run's column types",
                value=f"column {field.name!r} is {known.type} in the run, {field.type} in the new list",
                fix="convert or rename the column in the new list",
            )
    return pa.struct(list(merged.values()))


def _fits(given: pa.DataType, planned: pa.DataType) -> bool:
    """Whether every value of the type `given` is one of the type `planned`."""
    if pa.types.is_large_string(given) or pa.types.is_string_view(given):
        given = pa.string()
    try:
        return bool(common_type(planned, given) == planned)
    except pa.ArrowException:
        return False


def with_input(rows: pa.Table, kind: pa.StructType | None) -> pa.Table:
    """Plan rows with their column `input` in the run's type; columns that their own list lacked are null."""
    if kind is None or ("input" in rows.schema.names and rows.schema.field("input").type == kind):
        return rows
    own = rows.schema.field("input").type if "input" in rows.schema.names else pa.struct([])
    there = {field.name: at for at, field in enumerate(own)}
    children: list[pa.Array] = []
    for field in kind:
        if field.name not in there:
            children.append(pa.nulls(len(rows), field.type))
            continue
        values = pc.struct_field(rows["input"], [there[field.name]]).cast(field.type)
        children.append(pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], field.type))
    return set_columns(rows, {"input": pa.StructArray.from_arrays(children, fields=list(kind))})


def list_column(rows: pa.Table, name: str) -> pa.ChunkedArray | None:
    """The list's own column NAME or `input.NAME`; None if there is none."""
    plain = name.removeprefix("input.")
    if "input" not in rows.schema.names or rows.schema.field("input").type.get_field_index(plain) < 0:
        return None
    return pc.struct_field(rows["input"], [plain])
