#!/usr/bin/env bash
# Ray Data 2.60.0: `groupby` of a dataset without rows works if it is one block, and raises if it is two.
#
# source:     ray/data/_internal/planner/plan_udf_map_op.py and ray/data/_internal/arrow_block.py: a block that ends up with
#             no rows loses its columns, and the hash shuffle looks for the key in each block that it is given.
# behaviour:  a filter that happens to leave no row, followed by groupby, ends the job with ArrowInvalid about a field that
#             the user can see in the schema; the same job on less data (one block) gives an empty result.
# seen:       1 block: 0 rows, 2 blocks: No match for FieldRef     (2026-11-30, Linux, Python 3.11)
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

ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)

def of(blocks):
    rows = ray.data.from_arrow([pa.table({"key": [1, 2]})] * blocks)
    rows = rows.map_batches(lambda some: some.slice(0, 0), batch_format="pyarrow", batch_size=None)
    try:
        return f"{rows.groupby('key').map_groups(lambda group: group, batch_format='pyarrow').count()} rows"
    except Exception as error:
        return "No match for FieldRef" if "No match for FieldRef" in str(error) else type(error).__name__

print(f"seen: 1 block: {of(1)}, 2 blocks: {of(2)}")
PYTHON
)
echo "$seen"
[ "$seen" = "seen: 1 block: 0 rows, 2 blocks: No match for FieldRef" ] || { echo "changed"; exit 1; }
echo "as described"
