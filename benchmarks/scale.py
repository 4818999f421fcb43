"""Whether speed holds and the driver stays small as the list grows: `pairmill curate` on 2,000 to 20,000 rows.

    python benchmarks/scale.py              about 11 minutes on 2 cores

Every size runs twice, in ascending and then descending order, so that a machine that warms up or slows down shows as
spread and not as a trend.  The smaller half of the sizes, which take seconds, run twice more.  The driver is the
process that the user starts; the memory of its workers depends on the requests in flight.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from statistics import median
from typing import Any

from contenders import Run, run_pairmill
from photos import photos
from record import WORK, machine, record, table
from server import serve

#: What the issue asks for: how far a size's rows/s may be from the median of all.
BAR = 0.15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes_help = "rows of each run (default 2000 5000 10000 20000)"
    parser.add_argument("--sizes", type=int, nargs="+", default=[2000, 5000, 10_000, 20_000], help=sizes_help)
    sizes: Sequence[int] = parser.parse_args().sizes

    files = photos(WORK / "photos", 2000)
    began = machine()
    runs: dict[int, list[Run]] = {size: [] for size in sizes}
    with serve(WORK / "photos", WORK / "nginx") as server:
        short = sizes[: len(sizes) // 2]
        for size in (*sizes, *reversed(sizes), *short, *reversed(short)):
            run = run_pairmill(server.urls(files, size), WORK / "pairmill")
            runs[size].append(run)
            print(f"{size} rows: {run.steady:.1f} rows/s, driver {run.peak_mb:.0f} MB", flush=True)

    speed = {size: median(run.steady for run in found) for size, found in runs.items()}
    memory = {size: max(run.peak_mb for run in found) for size, found in runs.items()}
    middle = median(speed.values())
    spread = max(abs(s / middle - 1) for s in speed.values())
    growth = memory[max(sizes)] / memory[min(sizes)] - 1
    print(f"\nload before: {began['load_before']}")
    table(
        ["rows", "rows/s", "of the median", "driver MB"],
        [[f"{size:,}", speed[size], f"{speed[size] / middle:.2f}", memory[size]] for size in sizes],
    )
    print(f"rows/s within ±{100 * spread:.0f} % (bar: ±{100 * BAR:.0f} %); driver memory {100 * growth:+.0f} %")
    figures: dict[str, Any] = {
        "spread": round(spread, 3),
        "bar": BAR,
        "driver_growth": round(growth, 3),
        "rows_per_second": {str(size): round(s, 1) for size, s in speed.items()},
        "driver_peak_mb": {str(size): round(mb) for size, mb in memory.items()},
        "runs": {str(size): [run.as_json() for run in found] for size, found in runs.items()},
    }
    record("scale", figures, began)


if __name__ == "__main__":
    main()
