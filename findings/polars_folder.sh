#!/usr/bin/env bash
# polars 2.1.0 and pyarrow 26.0.1 take different files of a folder for a dataset: polars refuses what pyarrow passes over.
#
# source:     pyarrow.dataset passes over names that begin with `_` or `.`, in folders too (`ignore_prefixes`); polars
#             passes over neither when it expands a folder, and wants one ending for all files in it.
# behaviour:  of a folder with part.parquet and _log/1.json, as Delta and Spark lay tables out, `pq.read_table` gives the
#             rows, and `polars.read_parquet` ends with "directory contained paths with different file extensions".
# seen:       pyarrow: 3, polars: InvalidOperationError, with .log/ instead: the same   (2026-11-29, Linux, Python 3.11)
# pairmill:   pairs/ holds nothing but parts; its commits are in _manifest/pairs/ beside it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet pyarrow==26.0.1 polars==2.1.0
mkdir -p "$folder/data/_log"
seen=$("$folder/env/bin/python" - "$folder/data" <<'PYTHON'
import os
import sys
from pathlib import Path

import polars
import pyarrow as pa
import pyarrow.parquet as pq

data = Path(sys.argv[1])
pq.write_table(pa.table({"n": [1, 2, 3]}), data / "part.parquet")
(data / "_log" / "1.json").write_text("{}")


def rows() -> object:
    try:
        return len(polars.read_parquet(data))
    except polars.exceptions.PolarsError as error:
        return type(error).__name__


first = rows()
os.rename(data / "_log", data / ".log")
print(f"pyarrow: {len(pq.read_table(data))}, polars: {first}, with .log/ instead: {rows()}")
PYTHON
)
echo "$seen"
[ "$seen" = "pyarrow: 3, polars: InvalidOperationError, with .log/ instead: InvalidOperationError" ] || { echo "changed: polars takes other files of a folder"; exit 1; }
echo "as described"
