"""One file of a list, and the errors that name it."""

from __future__ import annotations

from collections import Counter
from typing import Literal

import pyarrow.fs as pafs

from pairmill.errors import InputError

Format = Literal["parquet", "csv", "tsv", "jsonl", "txt", "webdataset"]


class SeveralTexts(ValueError):
    """A value where one text must be holds a list or several fields."""


class InputFile:
    """One file of the list: place, format, size (bytes) and time of the last change (ns; None if unknown).

    partitions: columns that the names of its folders give (`year=2024/part.parquet`); None: a missing value.
    quoted: whether values of a csv or tsv file may stand in double quotes; None: not looked at yet.
    left_out: what of a tar is in no row, as `pairmill.tars` counts it, once it has been read.
    """

    def __init__(
        self,
        filesystem: pafs.FileSystem,
        path: str,
        kind: Format,
        size: int,
        modified_ns: int | None = None,
        partitions: dict[str, str | None] | None = None,
    ) -> None:
        self.filesystem = filesystem
        self.path = path
        self.kind = kind
        self.size = size
        self.modified_ns = modified_ns
        self.partitions = partitions or {}
        self.quoted: bool | None = None
        self.left_out: Counter[str] = Counter()

    def malformed(self, why: object) -> InputError:
        """The error for a file that cannot be read as `kind`."""
        fix = "fix or remove the file, set input.format, or leave such files out with input.bad_files: skip"
        if self.kind in ("csv", "tsv", "jsonl", "txt") and any(word in f"{why}" for word in ("can't decode", "UTF-16")):
            encoding = "UTF-16LE" if "UTF-16" in f"{why}" else "WINDOWS-1252"
            fix = f"convert it to UTF-8, perhaps with `iconv -f {encoding} -t UTF-8`, or leave such files out with "
            fix += "input.bad_files: skip"
        return InputError(
            f"input.path: every input file must be readable as {self.kind}", value=f"{self.path}: {why}", fix=fix
        )
