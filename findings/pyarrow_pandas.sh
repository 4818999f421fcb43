#!/usr/bin/env bash
# pyarrow 26.0.1: the first conversion of a Python value imports pandas, if it is installed.
#
# source:     pyarrow/pandas-shim.pxi: `_check_import`, called by `pa.array` and `pa.scalar` to recognise pandas' objects.
# behaviour:  `pa.scalar(1)` takes as long as `import pandas`, about 0.3 s, in a process that uses no pandas.  So do
#             `Table.group_by` and `Table.sort_by`, through pyarrow.acero and pyarrow.dataset.
# seen:       before: False, after: True                       (2026-11-28, Linux, Python 3.11)
# pairmill:   commands that only read a run hide pandas; counting and sorting avoid pyarrow.acero.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet pyarrow==26.0.1 pandas==2.3.3
seen=$("$folder/env/bin/python" - <<'PYTHON'
import sys
import pyarrow as pa
before = "pandas" in sys.modules
pa.scalar(1)
print(f"before: {before}, after: {'pandas' in sys.modules}")
PYTHON
)
echo "$seen"
[ "$seen" = "before: False, after: True" ] || { echo "changed: pandas is imported at another time"; exit 1; }
echo "as described"
