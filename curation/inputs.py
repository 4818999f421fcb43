"""Read lists of image URLs with alt text: parquet, csv, tsv, jsonl, txt and webdataset, always streamed.

adds: url, alt (string), input (struct of the list's other columns, unchanged; absent if there are none)

Reading is strict, because it happens before any work: a malformed file or a missing column is an `InputError`.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, Literal

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from pydantic import Field

from pairmill.config import Config
from pairmill.errors import InputError, nearest
from pairmill.tars import samples
from pairmill.uris import absolute, find

Format = Literal["parquet", "csv", "tsv", "jsonl", "txt", "webdataset"]

_ENDINGS: Mapping[str, Format] = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".txt": "txt",
    ".tar": "webdataset",
}
_COMPRESSED = (".gz", ".bz2", ".zst")
_BATCH_ROWS = 16_384


class InputConfig(Config):
    """Where the list of URLs is, and which of its columns are the URL and the alt text."""

    path: str = Field(
        description="file, folder or pattern (`*` within a name, `**` over folders, {000..012}, {a,b}); local, s3:// "
        "or gs://"
    )
    format: Literal["auto"] | Format = Field("auto", description="format of the files; auto: by their endings")
    url_column: str = Field("url", description="column (jsonl, webdataset: key) that holds the URL")
    text_column: str | None = Field(
        "text",
        description="column (jsonl, webdataset: key) that holds the alt text; null: none, as in txt",
    )


class NoInputFiles(InputError):
    """No file is where the list should be."""


class InputFile:
    """One file of the list: place, format, size (bytes) and time of the last change (ns; None if unknown)."""

    def __init__(
        self, filesystem: pafs.FileSystem, path: str, kind: Format, size: int, modified_ns: int | None = None
    ) -> None:
        self.filesystem = filesystem
        self.path = path
        self.kind = kind
        self.size = size
        self.modified_ns = modified_ns

    def malformed(self, why: object) -> InputError:
        """The error for a file that cannot be read as `kind`."""
        return InputError(
            f"input.path: every input file must be readable as {self.kind}",
            value=f"{self.path}: {why}",
            fix="fix or remove the file, or set input.format",
        )


def find_files(config: InputConfig) -> list[InputFile]:
    """The input files, sorted by path.  Raises NoInputFiles if there is none, InputError for an unknown format."""
    auto = config.format == "auto"
    found = find(config.path, below=lambda path: not auto or _kind(path) is not None)
    if not found.paths:
        raise NoInputFiles(
            "input.path must lead to at least one input file",
            value=absolute(config.path),
            fix=f"give a file, a folder or a pattern of {', '.join(sorted(_ENDINGS))} files; a submitted "
            "job looks for it on the cluster's nodes, for a relative one in its copy of the project",
        )
    files = []
    for path, size, modified_ns in zip(found.paths, found.sizes, found.modified_ns, strict=True):
        kind = _kind(path) if config.format == "auto" else config.format
        if kind is None:
            raise InputError(
                "input.format must name the format of files without a known ending",
                value=path,
                fix=f"set input.format, or give the file an ending of {', '.join(sorted(_ENDINGS))}",
            )
        files.append(InputFile(found.filesystem, path, kind, size, modified_ns))
    return files


def _kind(path: str) -> Format | None:
    name = path.lower()
    for ending in _COMPRESSED:
        name = name.removesuffix(ending)
    return _ENDINGS.get(PurePosixPath(name).suffix)


def extra_fields(files: list[InputFile], config: InputConfig) -> pa.StructType:
    """The type of the `input` column: every column except the URL and the alt text, of all files together.

    csv and tsv columns are strings as written.  A jsonl or webdataset key takes the JSON type that all its values
    share; keys with mixed or nested values are kept as JSON text.
    Raises InputError for a malformed file or a file without the URL or text column.
    """
    schemas = []
    for file in files:
        try:
            schemas.append(_schema(file))
        except (pa.ArrowException, OSError, EOFError, ValueError, tarfile.TarError) as error:
            raise file.malformed(error) from error
        if file.kind != "txt":
            _require_columns(file, schemas[-1], config)
    try:
        merged = pa.unify_schemas(schemas, promote_options="permissive")
    except pa.ArrowException as error:
        raise InputError(
            "input.path: all input files must agree on the types of their columns",
            value=error,
            fix="convert the file that differs from the others",
        ) from error
    taken = {config.url_column, config.text_column}
    return pa.struct([pa.field(f.name, f.type) for f in merged if f.name not in taken])


def _require_columns(file: InputFile, schema: pa.Schema, config: InputConfig) -> None:
    for key, column in (("url_column", config.url_column), ("text_column", config.text_column)):
        if column is not None and column not in schema.names:
            raise InputError(
                f"input.{key} must name a column of every input file",
                value=f"{column!r} is not in {file.path}, which has {', '.join(schema.names) or 'no columns'}",
                fix=f"set input.{key}, perhaps to: {nearest(column, schema.names) or 'null'}",
            )


def _schema(file: InputFile) -> pa.Schema:
    if file.kind == "parquet":
        with file.filesystem.open_input_file(file.path) as stream:
            return pq.read_schema(stream).remove_metadata()
    if file.kind in ("csv", "tsv"):
        return _csv(file, None).schema
    if file.kind == "txt":
        return pa.schema([])
    kinds: dict[str, pa.DataType] = {}
    for record in _records(file):
        for key, value in record.items():
            seen = _json_type(value)
            known = kinds.get(key)
            if known is None or known == pa.null():
                kinds[key] = seen
            elif seen not in (known, pa.null()):
                kinds[key] = pa.float64() if {seen, known} == {pa.int64(), pa.float64()} else pa.string()
    return pa.schema([(key, pa.string() if kind == pa.null() else kind) for key, kind in kinds.items()])


def _json_type(value: object) -> pa.DataType:
    if value is None:
        return pa.null()
    if isinstance(value, bool):
        return pa.bool_()
    if isinstance(value, int):
        return pa.int64() if -(2**63) <= value < 2**63 else pa.string()
    return pa.float64() if isinstance(value, float) else pa.string()


def read_rows(file: InputFile, config: InputConfig, extra: pa.StructType) -> Iterator[pa.Table]:
    """Batches of `url`, `alt`, `input`.  A missing URL or text is the empty string."""
    try:
        for batch in _batches(file):
            yield _normalise(batch, file, config, extra)
    except (pa.ArrowException, OSError, EOFError, ValueError, tarfile.TarError) as error:
        raise file.malformed(error) from error


def _normalise(batch: pa.Table, file: InputFile, config: InputConfig, extra: pa.StructType) -> pa.Table:
    def strings(name: str | None) -> pa.ChunkedArray:
        if name is None or name not in batch.schema.names:
            return pa.chunked_array([pa.repeat(pa.scalar("", pa.string()), len(batch))])
        return batch[name].cast(pa.string()).fill_null("")

    columns = {
        "url": strings("url" if file.kind == "txt" else config.url_column),
        "alt": strings(config.text_column),
    }
    present = set(batch.schema.names)
    fields = [
        (batch[f.name].cast(f.type) if f.name in present else pa.chunked_array([pa.nulls(len(batch), f.type)]))
        for f in extra
    ]
    if fields:
        children = [pa.concat_arrays(f.chunks) if f.num_chunks else pa.array([], f.type) for f in fields]
        columns["input"] = pa.StructArray.from_arrays(children, fields=list(extra))
    return pa.table(columns)


def _batches(file: InputFile) -> Iterator[pa.Table]:
    if file.kind == "parquet":
        with file.filesystem.open_input_file(file.path) as stream:
            for batch in pq.ParquetFile(stream).iter_batches(batch_size=_BATCH_ROWS):
                yield pa.Table.from_batches([batch])
    elif file.kind in ("csv", "tsv"):
        names = _csv(file, None).schema.names
        for batch in _csv(file, names):
            yield pa.Table.from_batches([batch])
    elif file.kind == "txt":
        yield from _in_batches({"url": line} for line in _lines(file) if line.strip())
    else:
        yield from _in_batches({k: _plain(v) for k, v in r.items()} for r in _records(file))


def _csv(file: InputFile, names: list[str] | None) -> pacsv.CSVStreamingReader:
    # Every column is read as text: guessing types block by block makes two files of one list disagree, and turns ids
    # such as 007 into 7.
    convert = pacsv.ConvertOptions(
        column_types=dict.fromkeys(names or [], pa.string()),
        strings_can_be_null=False,
        quoted_strings_can_be_null=False,
    )
    parse = pacsv.ParseOptions(delimiter="\t" if file.kind == "tsv" else ",", newlines_in_values=True)
    stream = file.filesystem.open_input_stream(file.path)
    if names is None:
        reader = pacsv.open_csv(stream, parse_options=parse, convert_options=convert)
        return _csv(file, reader.schema.names) if reader.schema.names else reader
    return pacsv.open_csv(stream, parse_options=parse, convert_options=convert)


def _in_batches(records: Iterable[Mapping[str, object]]) -> Iterator[pa.Table]:
    batch: list[Mapping[str, object]] = []
    for record in records:
        batch.append(record)
        if len(batch) == _BATCH_ROWS:
            yield _table(batch)
            batch = []
    if batch:
        yield _table(batch)


def _table(records: list[Mapping[str, object]]) -> pa.Table:
    names = dict.fromkeys(name for record in records for name in record)
    columns = {}
    for name in names:
        values = [record.get(name) for record in records]
        try:
            columns[name] = pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            columns[name] = pa.array([_as_text(v) for v in values], pa.string())
    return pa.table(columns)


def _plain(value: object) -> object:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value


def _as_text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _lines(file: InputFile) -> Iterator[str]:
    with file.filesystem.open_input_stream(file.path) as raw:
        for line in io.TextIOWrapper(raw, encoding="utf-8-sig"):
            yield line.rstrip("\r\n")


def _records(file: InputFile) -> Iterator[dict[str, Any]]:
    if file.kind == "jsonl":
        for number, line in enumerate(_lines(file), start=1):
            if line.strip():
                yield _json_object(line, f"line {number}")
    else:
        yield from _webdataset_records(file)


def _json_object(text: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{where}: every record must be a JSON object, not {type(record).__name__}")
    return record


def _webdataset_records(file: InputFile) -> Iterator[dict[str, Any]]:
    """One record per sample: its `.json` member, with its `.txt` member as the key `txt`."""
    with file.filesystem.open_input_stream(file.path) as raw, tarfile.open(fileobj=raw, mode="r|*") as tar:
        for _, members in samples(tar):
            record: dict[str, Any] = {}
            for ending, member in members:
                if ending in ("json", "txt") and (content := tar.extractfile(member)) is not None:
                    text = content.read().decode("utf-8")
                    record |= _json_object(text, member.name) if ending == "json" else {"txt": text}
            if record:
                yield record
