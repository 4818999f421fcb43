#!/usr/bin/env bash
# pyarrow 26.0.1: of a file whose name is not UTF-8, the path cannot be read, nor can it be opened by Python's own name.
#
# source:     pyarrow/_fs.pyx: `FileInfo.path` decodes, and paths are encoded, as UTF-8 without `surrogateescape`.
# behaviour:  Linux allows any bytes but 0 and / in a name, and Python gives such names with surrogates, as `os.listdir`
#             does.  `LocalFileSystem.get_file_info(FileSelector(folder))` lists the file, and its `path`, `base_name` and
#             `repr` raise UnicodeDecodeError; the name with surrogates raises UnicodeEncodeError.
# seen:       listed: 2; names: UnicodeDecodeError, a.parquet; ask: UnicodeEncodeError   (2026-11-29, Linux, Python 3.11)
# pairmill:   `pairmill/uris.py` names the file, and asks to rename it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet pyarrow==26.0.1
seen=$(cd "$folder" && "$folder/env/bin/python" - <<'PYTHON'
import os
from pyarrow import fs

os.mkdir("data")
for name in (b"data/a.parquet", b"data/caf\xe9.parquet"):
    open(name, "wb").close()


def outcome(call):
    try:
        return str(call())
    except Exception as error:
        return type(error).__name__


local = fs.LocalFileSystem()
listed = local.get_file_info(fs.FileSelector("data"))
names = sorted(outcome(lambda: info.base_name) for info in listed)
asked = outcome(lambda: local.get_file_info(os.fsdecode(b"data/caf\xe9.parquet")))
print(f"listed: {len(listed)}; names: {', '.join(names)}; ask: {asked}")
PYTHON
)
echo "$seen"
[ "$seen" = "listed: 2; names: UnicodeDecodeError, a.parquet; ask: UnicodeEncodeError" ] || { echo "changed: a name that is not UTF-8 is handled otherwise"; exit 1; }
echo "as described"
