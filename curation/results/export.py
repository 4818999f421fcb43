"""Write the product in other forms: webdataset tars, and parquet files with img2dataset's columns.

reads: pairs
adds:  —

Both number files and samples as img2dataset does: file 00012, key 000120034 (5 digits of the file, 4 of the sample).
Equal products give equal files, byte for byte.
"""

from __future__ import annotations

import base64
import io
import json
import math
import re
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import date, time
from itertools import groupby
from pathlib import Path, PurePath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.forget.tombstones import copying
from curation.results.export_card import features_of, write_export_card
from pairmill.atomic import unfinished_folder, whole_file
from pairmill.errors import RunDirError
from pairmill.layout import GROUP_ID, PAIRS
from pairmill.store import Store, shard_file

_BATCH_ROWS = 500

#: How Parquet is written: readers that verify the checksums of pages notice a bit that has changed.
_WRITTEN: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True}

#: The names of the files that an export writes.
_OURS = re.compile(r"[0-9]{5,}\.(tar|parquet)|sizes\.json|README\.md")

#: img2dataset 1.47: what its writer puts between the columns of the list and the image.
IMG2DATASET = pa.schema(
    [
        ("key", pa.string()),
        ("status", pa.string()),
        ("error_message", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("original_width", pa.int32()),
        ("original_height", pa.int32()),
        ("exif", pa.string()),
        ("sha256", pa.string()),
    ]
)


def export_webdataset(store: Store, to: Path | str, *, rows_per_shard: int = 10_000) -> list[Path]:
    """Write 00000.tar, … into `to`, each sample as <key>.jpg (or .png, .webp), .txt (the caption) and .json (the rest).

    `sizes.json` beside them holds the number of samples of each, for open_clip, and `README.md` says what `datasets`
    reads.  The .txt of a sample without a caption is empty, as in img2dataset: `datasets` refuses samples that differ
    in their files.  Unsigned 64-bit numbers, which most readers of JSON cannot hold, are written as text at any depth,
    and a map as a list of {"key": …, "value": …}.
    Returns the files written.  Raises RunDirError if nothing is packed yet or rows are being forgotten, UserError if
    `to` holds something; then nothing is written.
    """
    folder = Path(to)
    sizes: dict[str, int] = {}
    fields: list[pa.Field] = []
    endings: set[str] = set()
    with _copying(store, folder) as written:
        for number, pieces in _files(store, rows_per_shard):
            name = f"{number:05d}.tar"
            sizes[name] = 0
            with (
                whole_file(folder / name) as stream,
                tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar,
            ):
                for piece in map(_for_json, pieces):
                    fields = [pa.field("key", pa.string()), *(f for f in piece.schema if f.name != "image")]
                    for row in piece.to_pylist():
                        endings.add(_add_sample(tar, _key(number, sizes[name], rows_per_shard), row))
                        sizes[name] += 1
            written.append(folder / name)
        with whole_file(folder / "sizes.json") as stream:
            stream.write(json.dumps(sizes, indent=1).encode())
        written.append(folder / "sizes.json")
        written.append(write_export_card(folder, "*.tar", features_of(fields, sorted(endings))))
    return written


def export_img2dataset(store: Store, to: Path | str, *, rows_per_shard: int = 10_000) -> list[Path]:
    """Write 00000.parquet, … into `to`, with the columns of img2dataset's parquet output.

    First the input's own columns, `uid`, `caption` (the best text), `url`, and `group_id` if the product has it; then
    `IMG2DATASET`; then the encoded image, in a column named by its format (`jpg`; that of the first picture, if earlier
    recipes had others).  An input column with one of these names gets the prefix `input_`.
    Returns the files written.  Raises RunDirError if nothing is packed yet or rows are being forgotten, UserError if
    `to` holds something; then nothing is written.
    """
    folder = Path(to)
    image_column = ""
    with _copying(store, folder) as written:
        for number, pieces in _files(store, rows_per_shard):
            path = folder / f"{number:05d}.parquet"
            rows = 0
            with whole_file(path) as stream, ExitStack() as closing:
                writer: pq.ParquetWriter | None = None
                for piece in pieces:
                    keys = [_key(number, rows + at, rows_per_shard) for at in range(len(piece))]
                    image_column = image_column or _format_of(piece)
                    table = _img2dataset_rows(piece, keys, image_column)
                    if writer is None:
                        writer = closing.enter_context(pq.ParquetWriter(stream, table.schema, **_WRITTEN))
                    writer.write_table(table)
                    rows += len(piece)
            written.append(path)
    return written


@contextmanager
def _copying(store: Store, folder: Path) -> Iterator[list[Path]]:
    """A list for the files that the block writes into an empty folder; all of them are removed if it fails.

    What a killed export left there is removed first.
    """
    written: list[Path] = []
    with unfinished_folder(folder, _OURS):
        try:
            with copying(store):
                yield written
        except BaseException:
            for file in written:
                file.unlink(missing_ok=True)
            raise


def _files(store: Store, rows_per_shard: int) -> Iterator[tuple[int, Iterator[pa.Table]]]:
    """Number and rows of each file to write; the rows come in small tables, before those of the next file."""
    for number, group in groupby(_pieces(store, rows_per_shard), key=lambda numbered: numbered[0]):
        yield number, (piece for _, piece in group)


def _pieces(store: Store, rows_per_shard: int) -> Iterator[tuple[int, pa.Table]]:
    parts = sorted(store.index(PAIRS))
    if not parts:
        raise RunDirError(
            "an exported run must have parts in pairs/",
            value=f"{store.uri} has none",
            fix="run `pairmill curate` first",
        )
    rows = 0
    for part in parts:
        for batch in store.batches(shard_file(PAIRS, part), _BATCH_ROWS):
            piece = pa.Table.from_batches([batch])
            while len(piece):
                room = rows_per_shard - rows % rows_per_shard
                yield rows // rows_per_shard, piece.slice(0, room)
                rows += min(room, len(piece))
                piece = piece.slice(room)


def _key(number: int, sample: int, rows_per_shard: int) -> str:
    return f"{number:05d}{sample:0{max(4, len(str(rows_per_shard - 1)))}d}"


def _add_sample(tar: tarfile.TarFile, key: str, row: dict[str, Any]) -> str:
    """Returns the ending of the picture, without its dot."""
    image = row.pop("image")
    members = {PurePath(image["path"]).suffix: image["bytes"]}
    members[".txt"] = (row["caption"] or "").encode()
    members[".json"] = json.dumps(_plain({"key": key} | row), ensure_ascii=False).encode()
    for ending, content in members.items():
        # A header of defaults: no time, no owner, mode 0644, so that equal samples are equal bytes.
        header = tarfile.TarInfo(key + ending)
        header.size = len(content)
        tar.addfile(header, io.BytesIO(content))
    return PurePath(image["path"]).suffix.removeprefix(".")


def _for_json(piece: pa.Table) -> pa.Table:
    """The rows, with unsigned 64-bit numbers as text, whatever their values are, and maps as lists of key and value."""
    schema = pa.schema([(field.name, _type_in_json(field.type)) for field in piece.schema])
    return piece.cast(schema) if schema != piece.schema.remove_metadata() else piece


def _type_in_json(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_uint64(kind):
        return pa.string()
    if pa.types.is_dictionary(kind):
        return _type_in_json(kind.value_type)
    if pa.types.is_struct(kind):
        return pa.struct([_field_in_json(field) for field in kind])
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_field_in_json(kind.value_field), kind.list_size)
    if pa.types.is_large_list(kind):
        return pa.large_list(_field_in_json(kind.value_field))
    if pa.types.is_map(kind):
        # Pairs of one type: `datasets` refuses lists that mix types, and finds a column in each key of an object.
        pair = [pa.field("key", kind.key_type, False), pa.field("value", kind.item_type)]
        return pa.list_(pa.struct([_field_in_json(field) for field in pair]))
    if pa.types.is_list(kind):
        return pa.list_(_field_in_json(kind.value_field))
    return kind


def _field_in_json(field: pa.Field) -> pa.Field:
    return field.with_type(_type_in_json(field.type))


def _plain(value: object) -> object:
    """`value` as JSON data; other types of input columns are written as text (bytes in base 64)."""
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, date | time):
        return value.isoformat()
    return value if value is None or isinstance(value, str | int) else str(value)


def _format_of(piece: pa.Table) -> str:
    first: str = pc.struct_field(piece["image"], "path")[0].as_py()
    return PurePath(first).suffix.removeprefix(".")


def _img2dataset_rows(piece: pa.Table, keys: Sequence[str], image_column: str) -> pa.Table:
    own = [name for name in ("uid", "caption", "url", GROUP_ID) if name in piece.schema.names]
    taken = {*own, image_column, *IMG2DATASET.names}
    columns: dict[str, Any] = {}
    if "input" in piece.schema.names:
        inner = list(piece.schema.field("input").type)
        for at, field in enumerate(inner):
            name = field.name
            while name in taken:
                name = f"input_{name}"
            taken.add(name)
            columns[name] = pc.struct_field(piece["input"], at)
    columns |= {name: piece[name] for name in own}
    made = {"key": pa.array(keys), "status": pa.repeat("success", len(piece))}
    for field in IMG2DATASET:
        values = made.get(field.name, piece[field.name] if field.name in piece.schema.names else None)
        columns[field.name] = pa.nulls(len(piece), field.type) if values is None else values.cast(field.type)
    columns[image_column] = pc.struct_field(piece["image"], "bytes")
    return pa.table(columns)
