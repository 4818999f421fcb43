"""Read lists of image URLs with alt text: parquet, csv, tsv, jsonl, txt and webdataset, always streamed.

adds: url, alt (string), input (struct of the list's other columns, unchanged; absent if there are none)

Reading is strict, because it happens before any work: a malformed file or a missing column is an `InputError` with the
file, the row and the column.  A file without a byte, or with nothing but white space, is a part without rows.

Read in this order: this file, files, columns, records, delimited, quoting, limits, encodings.
"""

from __future__ import annotations

import logging
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Literal
from urllib.parse import unquote

import pyarrow as pa
from pydantic import Field

from curation.inputs import delimited, records
from curation.inputs.columns import Columns, as_text, cast, check_text, check_utf8, columns_of, shared
from curation.inputs.files import Format, InputFile, SeveralTexts
from curation.inputs.limits import parquet_batches, parquet_schema
from curation.inputs.quoting import Quoting, is_quoted
from pairmill.config import Config
from pairmill.errors import InputError, nearest
from pairmill.uris import absolute, find

logger = logging.getLogger("pairmill")

_ENDINGS: Mapping[str, Format] = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".txt": "txt",
    ".tar": "webdataset",
    **dict.fromkeys((".tgz", ".tbz", ".tbz2", ".tzst"), "webdataset"),
}
_COMPRESSED = (".gz", ".bz2", ".zst")


class InputConfig(Config):
    """Where the list of URLs is, and which of its columns are the URL and the alt text."""

    path: str = Field(
        description="file, folder or pattern (`*` within a name, `**` over folders, {000..012}, {a,b}); local, s3:// "
        "or gs://"
    )
    format: Literal["auto"] | Format = Field("auto", description="format of the files; auto: by their endings")
    quoting: Quoting = Field(
        "auto",
        description="whether values of csv and tsv files may stand in double quotes; auto: yes in csv, and in tsv if "
        "that reads no two lines as one row",
    )
    url_column: str = Field("url", description="column (jsonl, webdataset: key) that holds the URL")
    text_column: str | None = Field(
        "text",
        description="column (jsonl, webdataset: key) that holds the alt text; null: none, as in txt",
    )
    bad_files: Literal["refuse", "skip"] = Field(
        "refuse",
        description="a file that cannot be read whole; refuse: end with the file, row and column; skip: leave all its "
        "rows out, name it, and count it in plan.json",
    )


class NoInputFiles(InputError):
    """No file is where the list should be."""


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
        partitions = _partitions(path, found.root)
        files.append(InputFile(found.filesystem, path, kind, size, modified_ns, partitions))
    return files


#: A folder that stands for a value of a column, as Hive, Spark and `pyarrow.dataset` name them.
_PARTITION = re.compile(r"([^/=]+)=([^/]*)")
_NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"


def _partitions(path: str, root: str) -> dict[str, str | None]:
    """The columns that the folders of a file, below what `input.path` names, stand for."""
    folders = path.removeprefix(root).split("/")[:-1]
    named = [match.groups() for folder in folders if (match := _PARTITION.fullmatch(folder))]
    return {unquote(name): None if value == _NULL_PARTITION else unquote(value) for name, value in named}


def _kind(path: str) -> Format | None:
    name = path.lower()
    for ending in _COMPRESSED:
        name = name.removesuffix(ending)
    return _ENDINGS.get(PurePosixPath(name).suffix)


def extra_fields(files: list[InputFile], config: InputConfig) -> pa.StructType:
    """The type of the `input` column: every column except the URL and the alt text, of all files together.

    csv and tsv columns are strings as written; JSON keys have the types that `records` gives them.
    Raises InputError for a malformed file or a file without the URL or text column.
    """
    seen = [(file, columns) for file in files if (columns := _columns(file, config))]
    taken = {config.url_column, config.text_column}
    return pa.struct([pa.field(name, kind) for name, kind in shared(seen).items() if name not in taken])


def sound_files(files: Sequence[InputFile], config: InputConfig) -> tuple[list[InputFile], list[InputFile]]:
    """The files to read, and those that `bad_files: skip` leaves out because they cannot be read whole.

    With `skip` every file is read once more for it.  Raises InputError if no file is left.
    """
    if config.bad_files == "refuse":
        return list(files), []
    sound, bad, first = [], [], None
    for file in files:
        try:
            own = extra_fields([file], config)
            for _ in read_rows(file, config, own):
                pass
            sound.append(file)
        except InputError as error:
            first = first or error
            bad.append(file)
            logger.warning("left out by input.bad_files=skip: %s", error.value)
    if bad:
        logger.warning("%d of %d input files were left out, with all their rows", len(bad), len(files))
    if first is not None and not sound:
        raise first
    return sound, bad


#: What is raised by readers of files that are not what they should be.
_MALFORMED = (pa.ArrowException, OSError, EOFError, ValueError, tarfile.TarError)


def _columns(file: InputFile, config: InputConfig) -> Columns:
    """The columns of a file; none if it has no rows that could have any."""
    texts = (config.url_column, config.text_column)
    try:
        columns = dict(_found_columns(file, config))
        if columns or file.kind == "txt":
            columns |= {name: pa.string() for name in file.partitions if name not in columns}
        for name in texts:
            if name is not None and name in columns:
                check_text(columns[name], name)
    except SeveralTexts as error:
        raise InputError(
            "input.url_column and input.text_column must name columns with one text a row",
            value=f"{file.path}: {error}",
            fix="write a row for each text, with the same URL (DuckDB: unnest, pandas: explode), or name other columns",
        ) from error
    except _MALFORMED as error:
        raise file.malformed(error) from error
    if columns and file.kind != "txt":
        _require_columns(file, columns, config)
    return columns


def _found_columns(file: InputFile, config: InputConfig) -> Columns:
    if file.kind == "txt":
        return {}
    if file.kind == "parquet":
        with file.filesystem.open_input_file(file.path) as stream:
            columns: Columns = columns_of(parquet_schema(stream, file.size))
    elif file.kind in ("csv", "tsv"):
        file.quoted = is_quoted(file, config.url_column, config.quoting)
        columns = columns_of(delimited.schema(file))
    else:
        columns = records.kinds(file, (config.url_column, config.text_column))
    return columns


def _require_columns(file: InputFile, columns: Columns, config: InputConfig) -> None:
    for key, column in (("url_column", config.url_column), ("text_column", config.text_column)):
        if column is not None and column not in columns:
            raise InputError(
                f"input.{key} must name a column of every input file",
                value=f"{column!r} is not in {file.path}, which has {', '.join(columns)}",
                fix=f"set input.{key}, perhaps to: {nearest(column, columns) or 'null'}",
            )


def read_rows(file: InputFile, config: InputConfig, extra: pa.StructType) -> Iterator[pa.Table]:
    """Batches of `url`, `alt`, `input`.  A missing URL or text is the empty string."""
    first = 1
    try:
        for batch in _batches(file, config):
            if file.kind == "parquet":
                for name in batch.schema.names:
                    check_utf8(batch[name], name, first)
            for name, value in file.partitions.items():
                if name not in batch.schema.names:
                    batch = batch.append_column(name, pa.repeat(pa.scalar(value, pa.string()), len(batch)))
            yield _normalise(batch, file, config, extra, first)
            first += len(batch)
    except _MALFORMED as error:
        raise file.malformed(error) from error


def _normalise(batch: pa.Table, file: InputFile, config: InputConfig, extra: pa.StructType, first: int) -> pa.Table:
    present = set(batch.schema.names)

    def strings(name: str | None) -> pa.ChunkedArray:
        if name is None or name not in present:
            return pa.chunked_array([pa.repeat(pa.scalar("", pa.string()), len(batch))])
        return as_text(batch[name], name, first)

    columns = {
        "url": strings("url" if file.kind == "txt" else config.url_column),
        "alt": strings(config.text_column),
    }
    fields = [
        cast(batch[f.name], f.type, f.name, first)
        if f.name in present
        else pa.chunked_array([pa.nulls(len(batch), f.type)])
        for f in extra
    ]
    if fields:
        children = [pa.concat_arrays(f.chunks) if f.num_chunks else pa.array([], f.type) for f in fields]
        columns["input"] = pa.StructArray.from_arrays(children, fields=list(extra))
    return pa.table(columns)


def _batches(file: InputFile, config: InputConfig) -> Iterator[pa.Table]:
    if file.kind == "parquet":
        with file.filesystem.open_input_file(file.path) as stream:
            yield from parquet_batches(stream, file.size)
    elif file.kind in ("csv", "tsv"):
        if file.quoted is None:
            file.quoted = is_quoted(file, config.url_column, config.quoting)
        yield from delimited.batches(file)
    elif file.kind == "txt":
        yield from records.text_batches(file)
    else:
        yield from records.batches(file)
