"""Columns of Parquet files as people write them: what their types stand for, and their values in the plain form.

A dictionary stands for its values, an extension type for its storage, a view or a large type for the plain one, and a
list of uint8 (NumPy's arrays, as pandas writes them) for bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pairmill.errors import RecipeError, nearest
from training.data.sample import group_of, hex_id


def storage(kind: pa.DataType) -> pa.DataType:
    """The type of the values themselves."""
    while True:
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        elif isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        else:
            return kind


def is_string(kind: pa.DataType) -> bool:
    """Whether values are text."""
    kind = storage(kind)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_bytes(kind: pa.DataType) -> bool:
    """Whether values are bytes."""
    kind = storage(kind)
    if is_list(kind):
        return bool(pa.types.is_uint8(storage(kind.value_type)))
    return _is_binary(kind)


def is_list(kind: pa.DataType) -> bool:
    """Whether values are lists, of any layout."""
    kind = storage(kind)
    lists = ("is_list", "is_large_list", "is_fixed_size_list", "is_list_view", "is_large_list_view")
    return any(getattr(pa.types, name)(kind) for name in lists)


def is_void(kind: pa.DataType) -> bool:
    """Whether values can only be null, as in a part without any: pandas then writes a type that says no more."""
    kind = storage(kind)
    if pa.types.is_struct(kind):
        return any(is_void(kind.field(name).type) for name in ("bytes", "text") if kind.get_field_index(name) >= 0)
    return is_void(kind.value_type) if is_list(kind) else bool(pa.types.is_null(kind))


def is_image(kind: pa.DataType) -> bool:
    """Whether values are encoded images, as bytes or as Hugging Face's struct with them."""
    kind = storage(kind)
    if pa.types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0) and is_bytes(kind.field("bytes").type)
    return is_bytes(kind)


def is_text(kind: pa.DataType) -> bool:
    """Whether values are a text, texts, or structs with a text and its language and kind."""
    kind = storage(kind)
    if is_list(kind):
        kind = storage(kind.value_type)
        if pa.types.is_struct(kind):
            words = [kind.field(name).type for name in ("language", "kind") if kind.get_field_index(name) >= 0]
            named = all(is_string(word) or pa.types.is_null(word) for word in words)
            return bool(kind.get_field_index("text") >= 0) and is_string(kind.field("text").type) and named
    return is_string(kind)


def is_uid(kind: pa.DataType) -> bool:
    """Whether values can name a row."""
    kind = storage(kind)
    return is_string(kind) or _is_binary(kind) or bool(pa.types.is_integer(kind))


def is_group(kind: pa.DataType) -> bool:
    """Whether values can number a group: integers, also as the floats that pandas makes of them beside nulls."""
    kind = storage(kind)
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind))


def is_digest(kind: pa.DataType) -> bool:
    """Whether values can be digests: hex text or bytes."""
    return is_string(kind) or _is_binary(storage(kind)) or bool(pa.types.is_null(storage(kind)))


def stored(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column of the values themselves."""
    chunks = column.chunks
    while chunks and storage(chunks[0].type) != chunks[0].type:
        if isinstance(chunks[0], pa.ExtensionArray):
            chunks = [chunk.storage for chunk in chunks]
        else:
            chunks = [chunk.dictionary_decode() for chunk in chunks]
    return pa.chunked_array(chunks, storage(column.type))


def image_bytes(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column that `is_image` as binary."""
    column = stored(column)
    if is_void(column.type):
        return pa.chunked_array([pa.nulls(len(column), pa.binary())])
    if pa.types.is_struct(column.type):
        column = stored(pc.struct_field(column, "bytes"))
    if is_list(column.type):
        return pa.chunked_array([_of_numbers(chunk) for chunk in column.chunks], pa.binary())
    return column.cast(pa.binary())


def uids(column: pa.ChunkedArray) -> list[str | None]:
    """A column that `is_uid` as texts, bytes in hex; None where there is none."""
    column = stored(column)
    if _is_binary(column.type):
        return [value.hex() if value is not None else None for value in column.cast(pa.binary()).to_pylist()]
    if not is_string(column.type):
        column = column.cast(pa.string())
    return [value if isinstance(value, str) else None for value, _ in values(column)]


def groups(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """A column that `is_group` as int64, each as `sample.group_of`."""
    return np.array([group_of(value) for value in stored(column).to_pylist()], np.int64)


def number_table(rows: pa.Table | Mapping[str, pa.ChunkedArray], columns: Sequence[str]) -> NDArray[np.int64]:
    """[rows, columns] of columns that are `is_group`; -1 likewise."""
    return np.stack([groups(rows[column]) for column in columns], 1)


def require_numbers(schema: pa.Schema, columns: Sequence[str], dataset: str) -> None:
    """Raise RecipeError for a column of a batch policy that a dataset lacks, or that holds no numbers."""
    fitting = [field.name for field in schema if is_group(field.type)]
    for column in columns:
        if column not in fitting:
            raise no_numbers(column, dataset, fitting)


def no_numbers(column: str, dataset: str, known: Sequence[str]) -> RecipeError:
    """The error of a dataset without a column that a batch policy names."""
    return RecipeError(
        "data.cluster_by and data.keep_together must name columns of integers",
        value=f"{column}, in {dataset}",
        fix=f"perhaps you mean: {nearest(column, known)}" if known else "give data with such a column",
    )


def digests(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """A column that `is_digest` as the 63 bits of `hex_id`; -1 where there is none."""
    found = [hex_id(value.hex() if isinstance(value, bytes) else value) for value, _ in values(stored(column))]
    return np.array(found, np.int64)


def values(column: pa.ChunkedArray) -> Iterator[tuple[object, str | None]]:
    """Each value as Python has it, and what is wrong with it: None, or that it is no UTF-8, and then no value."""
    try:
        whole: Sequence[object] = column.to_pylist()
    except UnicodeDecodeError:
        for value in column:
            try:
                yield value.as_py(), None
            except UnicodeDecodeError as error:
                yield None, f"not UTF-8: {error.reason}"
        return
    yield from ((value, None) for value in whole)


def listed(value: object) -> object:
    """Texts that were stored as the JSON of a list; any other value as it is."""
    if not isinstance(value, str) or value[:1] != "[" or value.rstrip()[-1:] != "]":
        return value
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return value
    texts = [one.get("text") if isinstance(one, dict) else one for one in found]
    return found if texts and all(isinstance(text, str) for text in texts) else value


def _is_binary(kind: pa.DataType) -> bool:
    names = ("is_binary", "is_large_binary", "is_fixed_size_binary", "is_binary_view")
    return any(getattr(pa.types, name)(kind) for name in names)


def _of_numbers(chunk: pa.Array) -> pa.Array:
    """Lists of uint8 as binary."""
    there = chunk.is_valid()
    lengths = pc.fill_null(pc.list_value_length(chunk), 0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    numbers = pc.fill_null(pc.list_flatten(chunk), 0).to_numpy(zero_copy_only=False).astype(np.uint8)
    buffers = [there.buffers()[1], pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(numbers))]
    return pa.Array.from_buffers(pa.binary(), len(chunk), buffers)
