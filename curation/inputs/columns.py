"""The columns that the files of a list share, and every batch of rows in their types."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc

from curation.inputs.files import InputFile, SeveralTexts
from curation.inputs.records import shared_kind, type_of
from pairmill.errors import InputError

#: The columns of one file: a type, or for rows that are JSON the kind of a key's values (`records`).
Columns = Mapping[str, pa.DataType | str]


def columns_of(schema: pa.Schema) -> dict[str, pa.DataType | str]:
    """The columns of a schema with plain types.  Raises ValueError if a name occurs twice."""
    twice = [name for name, count in Counter(schema.names).items() if count > 1]
    if twice:
        raise ValueError(f"column {twice[0]!r} occurs twice; every column must have a name of its own")
    return {field.name: plain_type(field.type) for field in schema}


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type of the same values without a dictionary, an extension or a view, at any depth.

    Files that have their own dictionaries cannot be joined, nor can pyarrow take rows of extensions or views.
    A UUID becomes its text.
    """
    if isinstance(kind, pa.BaseExtensionType):
        return _PLAIN.get(_name(kind)) or plain_type(kind.storage_type)
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return plain_type(kind.value_type)
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_binary_view(kind):
        return pa.binary()
    if not _is_encoded(kind):
        return kind
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(plain_type(field.type)) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(plain_type(kind.key_type), plain_type(kind.item_type))
    inner = kind.value_field.with_type(plain_type(kind.value_type))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(inner, kind.list_size)
    large = pa.types.is_large_list(kind) or pa.types.is_large_list_view(kind)
    return pa.large_list(inner) if large else pa.list_(inner)


def _is_encoded(kind: pa.DataType) -> bool:
    """Whether there is a dictionary, an extension or a view at any depth."""
    if isinstance(kind, pa.BaseExtensionType) or any(test(kind) for test in _ENCODED):
        return True
    return pa.types.is_nested(kind) and any(_is_encoded(kind.field(at).type) for at in range(kind.num_fields))


_ENCODED = (
    *(pa.types.is_dictionary, pa.types.is_run_end_encoded, pa.types.is_string_view, pa.types.is_binary_view),
    *(pa.types.is_list_view, pa.types.is_large_list_view),
)
#: Extensions whose values are not those of their storage (https://arrow.apache.org/docs/format/CanonicalExtensions.html).
_PLAIN: Mapping[str, pa.DataType] = {"arrow.uuid": pa.string(), "arrow.bool8": pa.bool_()}


def _name(kind: pa.DataType) -> str:
    return getattr(kind, "extension_name", "")


def shared(files: Sequence[tuple[InputFile, Columns]]) -> dict[str, pa.DataType]:
    """The type of each column, in the order in which they occur.  Raises InputError for types that have none."""
    found: dict[str, tuple[InputFile, pa.DataType | str]] = {}
    for file, columns in files:
        for name, kind in columns.items():
            if name not in found:
                found[name] = (file, kind)
                continue
            before, known = found[name]
            if isinstance(known, str) and isinstance(kind, str):
                found[name] = (before, shared_kind(known, kind))
            elif known != kind:
                found[name] = (before, _shared_type(name, (before, _type(known)), (file, _type(kind))))
    types = {}
    for name, (_, kind) in found.items():
        taken = _type(kind)
        # A key that is always null, or a column of that type in some of several formats.
        types[name] = pa.string() if isinstance(kind, str) and taken == pa.null() else taken
    return types


def _type(kind: pa.DataType | str) -> pa.DataType:
    return type_of(kind) if isinstance(kind, str) else kind


def _shared_type(name: str, before: tuple[InputFile, pa.DataType], after: tuple[InputFile, pa.DataType]) -> pa.DataType:
    (file, one), (other_file, other) = before, after
    try:
        return common_type(one, other)
    except pa.ArrowException as error:
        raise InputError(
            "input.path: all input files must agree on the types of their columns",
            value=f"column {name!r} is {one} in {file.path}, {other} in {other_file.path}",
            fix="convert the column in the file that differs from the others",
        ) from error


def common_type(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """The type that holds the values of both.  Raises ArrowException if there is none."""
    schemas = [pa.schema([("c", kind)]) for kind in (one, other)]
    return pa.unify_schemas(schemas, promote_options="permissive").field(0).type


def check_text(kind: pa.DataType | str, name: str) -> None:
    """Raise SeveralTexts for a column of a type that holds lists or several fields."""
    if isinstance(kind, pa.DataType) and pa.types.is_nested(kind):
        word = "struct" if pa.types.is_struct(kind) or pa.types.is_map(kind) else "list"
        raise SeveralTexts(f"column {name!r} is a {word}: {kind}")


def as_text(column: pa.ChunkedArray, name: str, first: int) -> pa.ChunkedArray:
    """The column as texts; a missing one is the empty string."""
    if pa.types.is_floating(column.type):
        # What pandas writes for a missing value.
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    return cast(column, pa.string(), name, first).fill_null("")


def cast(column: pa.ChunkedArray, kind: pa.DataType, name: str, first: int) -> pa.ChunkedArray:
    """The column as another type.  first: the number of its first row in the file, from 1.

    Raises ValueError with the column and the first row that has no value of that type.
    """
    if column.type == kind:
        return column
    try:
        return _cast(column, kind)
    except pa.ArrowException as error:
        low, high = 0, len(column)  # the first row that fails lies between
        while high - low > 1:
            middle = (low + high) // 2
            try:
                _cast(column.slice(low, middle - low), kind)
                low = middle
            except pa.ArrowException:
                high = middle
        raise ValueError(f"row {first + low}, column {name!r}: {error}") from error


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if pa.types.is_run_end_encoded(column.type):
        column = pc.run_end_decode(column)
    if _name(column.type) == "arrow.uuid":
        values = [None if value is None else str(value) for value in column.to_pylist()]
        return pa.chunked_array([pa.array(values, pa.string())]).cast(kind)
    if isinstance(column.type, pa.BaseExtensionType):
        return _cast(column.cast(column.type.storage_type), kind)
    if pa.types.is_nested(column.type) and _is_encoded(column.type):
        return pa.chunked_array([pa.array([_plain(value) for value in column.to_pylist()], kind)])
    if pa.types.is_dictionary(column.type) and column.type.value_type != kind:
        column = column.cast(column.type.value_type)
    return column.cast(kind)


def _plain(value: Any) -> Any:
    """A value of a nested column, with the text of each UUID within."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value))
    return str(value) if isinstance(value, UUID) else value


def check_utf8(column: pa.ChunkedArray, name: str, first: int) -> None:
    """Raise ValueError with the column and the first row that holds a text which is not UTF-8, at any depth.

    Parquet does not check what its texts are.  first: the number of the column's first row in the file, from 1.
    """
    for chunk in column.chunks:
        try:
            chunk.validate(full=True)
        except pa.ArrowInvalid as error:
            at = next((at for at in range(len(chunk)) if not _valid(chunk[at : at + 1])), 0)
            raise ValueError(f"row {first + at}, column {name!r}: {error}; a text must be UTF-8") from error
        first += len(chunk)


def _valid(row: pa.Array) -> bool:
    try:
        pa.concat_arrays([row]).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True
