"""Read a list as a plan does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from curation.inputs import InputConfig, extra_fields, find_files, read_rows, sound_files


def read(path: Path | str, **keys: Any) -> pa.Table:
    """All rows of the list at `path`, in the order of its files."""
    config = InputConfig(path=str(path), **keys)
    files, _ = sound_files(find_files(config), config)
    extra = extra_fields(files, config)
    batches = [batch for file in files for batch in read_rows(file, config, extra)]
    return pa.concat_tables(batches) if batches else pa.table({"url": [], "alt": []})


def own(rows: pa.Table, column: str) -> list[Any]:
    """The values of a column of the list itself."""
    return [row[column] for row in rows["input"].to_pylist()]
