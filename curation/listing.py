"""Recognise the files of a list by their content, wherever they are and whatever their names are now.

A file's digest is taken over its bytes once, when it is planned.  Afterwards a file at the same place with the same
size and stamp counts as the same file without being read.  Any other file is read again: a list that was moved, copied
or touched costs one reading, and the run resumes.

The stamp of a local file is its time of modification and its time of status change, in nanoseconds.  No program can
set the latter, so a file rewritten at equal size is noticed even if its time of modification was reset.  Two changes go
unnoticed: a write that changes neither time, and one within the tick of the clock (milliseconds) in which the file was
recorded.  The stamp of an object is the time its store gives it, in seconds on S3: an object that is replaced by one of
equal size within the second in which it was written goes unnoticed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow.fs as pafs
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from curation.inputs.files import InputFile
from curation.inputs.quoting import Quoting
from pairmill.config import Config
from pairmill.errors import InputError

_CHUNK_BYTES = 8 * 2**20
_READERS = 8


class ListFile(Config):
    """An input file as it was when it was planned.

    place:   where it was: an absolute path, or bucket and key.  Only for messages and for the cheap check.
    kind:    how it is read (one of `Format`).
    size:    bytes.
    stamp:   changes with every write; empty where the file system has none.
    content: hex BLAKE2b-128 of its bytes.
    """

    place: str
    kind: str
    size: int
    stamp: str
    content: str


class PlannedList(Config):
    """One list of a run: the recipe's own, or one that extended the run.

    given:       the paths that named it; only their last parts are used again, when the list is gone.
    url_column, text_column: which columns were read as URL and alt text.
    quoting: how quotes in csv and tsv files were read.
    fingerprint: of the rows in its shards.
    skipped: files that could not be read whole and were left out (`input.bad_files: skip`).
    left_out: what of the tars among the files is in no row, by the reasons of `pairmill.tars`.
    """

    given: list[str]
    url_column: str
    text_column: str | None
    files: list[ListFile]
    rows: int
    first_shard: int
    shards: int
    fingerprint: str
    quoting: Quoting = "auto"
    skipped: list[ListFile] = Field(default_factory=list)
    left_out: dict[str, int] = Field(default_factory=dict)

    @model_serializer(mode="wrap")
    def _without_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # So that a plan is the same file, byte for byte, as before these fields existed.
        rare: dict[str, Any] = {"quoting": "auto", "skipped": [], "left_out": {}}
        return {name: value for name, value in dump(self).items() if name not in rare or value != rare[name]}

    def shard_numbers(self) -> range:
        """The shards that hold this list's rows, and no others."""
        return range(self.first_shard, self.first_shard + self.shards)


def record(files: Sequence[InputFile], known: Iterable[ListFile] = ()) -> list[ListFile]:
    """Each file with the digest of its content; `known` files that are unchanged at the same place are not read."""
    at = {(one.place, one.size, one.stamp): one.content for one in known if one.stamp}

    def recorded(file: InputFile) -> ListFile:
        where, stamp = place(file), _stamp(file)
        content = at.get((where, file.size, stamp)) or _digest(file)
        return ListFile(place=where, kind=file.kind, size=file.size, stamp=stamp, content=content)

    # Hashing and reading both release the interpreter's lock.
    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(recorded, files))


def check_unchanged(files: Sequence[InputFile], recorded: Sequence[ListFile]) -> None:
    """Raises InputError if a file changed after it was recorded: its rows may not match its digest."""
    for file, was in zip(files, recorded, strict=True):
        # The stamp of an object is that of the listing: if it was replaced since, the next resume reads and reports it.
        if isinstance(file.filesystem, pafs.LocalFileSystem) and _stamp(file) != was.stamp:
            raise InputError(
                "the input files must not change while they are planned",
                value=f"{file.path} was written to meanwhile",
                fix="wait until it is complete, then start again",
            )


def place(file: InputFile) -> str:
    """Where a file is, whatever the current folder: an absolute path, or bucket and key."""
    return os.path.abspath(file.path) if isinstance(file.filesystem, pafs.LocalFileSystem) else file.path


def _stamp(file: InputFile) -> str:
    if isinstance(file.filesystem, pafs.LocalFileSystem):
        status = os.stat(file.path)
        return f"{status.st_mtime_ns}-{status.st_ctime_ns}"
    return "" if file.modified_ns is None else str(file.modified_ns)


def _digest(file: InputFile) -> str:
    hashed = hashlib.blake2b(digest_size=16)
    # The raw bytes: a stream would be decompressed by its name's ending.
    with file.filesystem.open_input_file(file.path) as stream:
        while chunk := stream.read_buffer(_CHUNK_BYTES):
            hashed.update(chunk)
    return hashed.hexdigest()
