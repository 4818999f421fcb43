#!/usr/bin/env bash
# numpy 2.4.6: the quantile by the inverted CDF is one value too high for some shares; duckdb 2.0.1 gives the right one.
#
# source:     numpy places the quantile at ceil(n * q - 1) in binary floating point, and 0.28 * 25 is a little above 7.
# behaviour:  the inverted CDF's quantile is the least value that at least the share q of the values do not exceed.  Of the
#             numbers 1 to 25 and q = 0.28 that is 7, as 7 of 25 are 28 %; numpy says 8.  duckdb's quantile_disc says 7.
# seen:       of q = 0.01 … 0.99 and 1 to 400 values, numpy is one too high for 59 of 39,600, duckdb for none
#             (2026-11-30, Linux, Python 3.11)
# pairmill:   `quantile` in a selection takes the share as the decimal fraction that is written, and whole numbers.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet numpy==2.4.6 duckdb==2.0.1
seen=$("$folder/env/bin/python" - <<'PYTHON'
import duckdb
import numpy as np

connection = duckdb.connect()
wrong = {"numpy": 0, "duckdb": 0}
for count in range(1, 401):
    values = np.arange(1, count + 1)
    shares = ", ".join(f"0.{percent:02d}::double" for percent in range(1, 100))
    theirs = connection.sql(f"select quantile_disc(i, [{shares}]) from range(1, {count + 1}) t(i)").fetchall()[0][0]
    for percent in range(1, 100):
        right = -(-count * percent // 100)
        wrong["numpy"] += int(np.quantile(values, percent / 100, method="inverted_cdf")) != right
        wrong["duckdb"] += int(theirs[percent - 1]) != right
print(int(np.quantile(np.arange(1, 26), 0.28, method="inverted_cdf")), wrong["numpy"], wrong["duckdb"])
PYTHON
)
echo "numbers 1 to 25 at 0.28; wrong by numpy; wrong by duckdb: $seen"
[ "$seen" = "8 59 0" ] || { echo "changed: it is not 8, 59 and 0"; exit 1; }
echo "as described"
