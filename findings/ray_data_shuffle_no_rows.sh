#!/usr/bin/env bash
# Ray Data 2.60.0: `groupby` by a column that `map_batches` adds raises as soon as no row is left.
#
# source:     ray/data/_internal/execution/operators/map_transformer.py: the function of map_batches is not called for a block
#             without rows, so that such a block lacks the columns that it adds; ray/data/_internal/arrow_block.py and the hash
#             shuffle look for the key in every block that they are given.
# behaviour:  a filter that happens to leave no row, a function that adds a column, groupby by it: the job ends in an error of
#             Arrow about a field, while the same job with one row left works, and so does counting the rows.
# seen:       a row left: 1 rows, none left: No match for FieldRef, counted: 0     (2026-11-30, Linux, Python 3.11)
# pairmill:   takes the failure for an empty result where there is really no row (pipelines/barrier.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet "ray[data]==2.60.0"
cd "$folder"
seen=$("$folder/env/bin/python" -W ignore - 2>/dev/null <<'PYTHON' | grep "^seen: "
import pyarrow as pa
import ray

ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
whole = {"batch_format": "pyarrow", "batch_size": None}

def rows(left):
    table = ray.data.from_arrow([pa.table({"number": [1, 2]})])
    filtered = table.map_batches(lambda some: some.slice(0, left), **whole)
    return filtered.map_batches(lambda some: some.append_column("key", some["number"]), **whole)

def grouped(left):
    try:
        groups = rows(left).groupby("key").map_groups(lambda group: group, batch_format="pyarrow")
        return f"{groups.materialize().count()} rows"
    except Exception as error:
        return "No match for FieldRef" if "No match for FieldRef" in str(error) else type(error).__name__

print(f"seen: a row left: {grouped(1)}, none left: {grouped(0)}, counted: {rows(0).count()}")
PYTHON
)
echo "$seen"
[ "$seen" = "seen: a row left: 1 rows, none left: No match for FieldRef, counted: 0" ] || { echo "changed"; exit 1; }
echo "as described"
