"""Recognise the files of a list by their content, wherever they lie and whatever they are called now.

A file's digest is taken over its bytes, once, when it is planned.  Afterwards a file at the same place with the same
size and the same stamp is taken for the same file without being read.  Any other of a size that occurs is read again: a
list that was moved, copied or touched costs one reading, and resumes.

The stamp of a local file is its time of modification and its time of status change, in nanoseconds.  No program sets
the latter, so a file that was rewritten at equal size is noticed even if its time of modification was put back.  Not
noticed is what a file system itself hides: a write that changes neither time, or happens in the tick of the clock
(milliseconds) in which the file was recorded.  The stamp of an object is the time its store gives it, in seconds on
S3: an object that is replaced by one of equal size within the second in which it was written is not noticed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow.fs as pafs

from curation.inputs import InputFile
from pairmill.config import Config
from pairmill.errors import InputError

_CHUNK_BYTES = 8 * 2**20
_READERS = 8


class ListFile(Config):
    """An input file as it was when it was planned.

    place:   where it lay: an absolute path, or bucket and key.  For messages and for the cheap test only.
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


def record(files: Sequence[InputFile], known: Iterable[ListFile] = ()) -> list[ListFile]:
    """Each file with the digest of its content; of `known` ones that lie where they lay, unchanged, nothing is read."""
    at = {(one.place, one.size, one.stamp): one.content for one in known if one.stamp}

    def recorded(file: InputFile) -> ListFile:
        lies, stamp = place(file), _stamp(file)
        content = at.get((lies, file.size, stamp)) or _digest(file)
        return ListFile(place=lies, kind=file.kind, size=file.size, stamp=stamp, content=content)

    # Hashing and reading both release the interpreter's lock.
    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(recorded, files))


def check_unchanged(files: Sequence[InputFile], recorded: Sequence[ListFile]) -> None:
    """Raises InputError if a file was written to since it was recorded: its rows may not be those of its digest."""
    for file, was in zip(files, recorded, strict=True):
        # The stamp of an object is that of the listing: if it was replaced since, the next resume reads it and says so.
        if isinstance(file.filesystem, pafs.LocalFileSystem) and _stamp(file) != was.stamp:
            raise InputError(
                "the input files must not change while they are planned",
                value=f"{file.path} was written to meanwhile",
                fix="wait until it is complete, then start again",
            )


def place(file: InputFile) -> str:
    """Where a file lies, from whatever folder it was named: an absolute path, or bucket and key."""
    return os.path.abspath(file.path) if isinstance(file.filesystem, pafs.LocalFileSystem) else file.path


def _stamp(file: InputFile) -> str:
    if isinstance(file.filesystem, pafs.LocalFileSystem):
        status = os.stat(file.path)
        return f"{status.st_mtime_ns}-{status.st_ctime_ns}"
    return "" if file.modified_ns is None else str(file.modified_ns)


def _digest(file: InputFile) -> str:
    hashed = hashlib.blake2b(digest_size=16)
    # As it lies there: a stream would be decompressed by its name's ending.
    with file.filesystem.open_input_file(file.path) as stream:
        while chunk := stream.read_buffer(_CHUNK_BYTES):
            hashed.update(chunk)
    return hashed.hexdigest()
