"""Images a second, side by side: pairmill and img2dataset download the same photographs from a local nginx.

    python benchmarks/download.py           about 6 minutes on 2 cores
    python benchmarks/download.py --tune    first find img2dataset's best setting, and keep it for later runs

Both run from their command lines as processes of their own, alternating, on the same URLs and the same cores, which
nginx shares with them.  Each has three figures: the rate while it downloads, by the times it records itself; the rate
that its report says; and the rate of the whole process.  Beside them are the rate that the cores allow (`limits.py`)
and the quality of the stored pictures (`quality.py`).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from statistics import median
from typing import Any

from contenders import Img2datasetSetting, Run, run_img2dataset, run_pairmill
from limits import limits
from photos import photos
from quality import BAR_DB, compare, show
from record import RESULTS, WORK, machine, ratios, record, table
from server import Server, serve

#: What the issue asks for: our images a second over img2dataset's.
BAR_RATIO = 2.0

PHOTOGRAPHS = 2000
QUALITY_IMAGES = 300

_SETTING = RESULTS / "img2dataset_setting.json"


def tune(server: Server, files: Sequence[Any], images: int) -> Img2datasetSetting:
    """The fastest of img2dataset's settings here, tried one after the other; all their rates are kept."""
    urls = server.urls(files, images)

    def tried(setting: Img2datasetSetting) -> float:
        steady = run_img2dataset(urls, WORK / "img2dataset", setting).steady
        print(f"  {setting}: {steady:.1f} images/s", flush=True)
        rows.append({"setting": asdict(setting), "steady": round(steady, 1)})
        return steady

    rows: list[dict[str, Any]] = []
    print("img2dataset's settings:")
    pools = ((1, 64), (2, 16), (2, 32), (2, 64), (2, 256), (4, 32))
    best = max([Img2datasetSetting(processes, threads) for processes, threads in pools], key=tried)
    variants = [replace(best, output_format="webdataset"), replace(best, output_format="files")]
    variants.append(replace(best, shards_per_process=4))
    speed = {best: max(row["steady"] for row in rows)} | {variant: tried(variant) for variant in variants}
    best = max(speed, key=speed.__getitem__)
    record("img2dataset_setting", {"setting": asdict(best), "images": images, "tried": rows})
    return best


def known_setting() -> Img2datasetSetting:
    """What `--tune` kept, or the class's defaults."""
    if not _SETTING.exists():
        return Img2datasetSetting()
    return Img2datasetSetting(**json.loads(_SETTING.read_text())["setting"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=6000, help="URLs of one run (default 6000)")
    parser.add_argument("--rounds", type=int, default=3, help="alternations (default 3)")
    parser.add_argument("--tune", action="store_true", help="find img2dataset's best setting first (3 minutes)")
    options = parser.parse_args()

    files = photos(WORK / "photos", PHOTOGRAPHS)
    began = machine()
    with serve(WORK / "photos", WORK / "nginx") as server:
        setting = tune(server, files, 1600) if options.tune else known_setting()
        allowed = limits(server, files)
        urls = server.urls(files, options.images)
        ours: list[Run] = []
        theirs: list[Run] = []
        for number in range(options.rounds):
            last = number == options.rounds - 1
            theirs.append(run_img2dataset(urls, WORK / "img2dataset", setting))
            ours.append(run_pairmill(urls, WORK / "pairmill", keep=last))
            speeds = f"img2dataset {theirs[-1].steady:.1f}, pairmill {ours[-1].steady:.1f} images/s"
            print(f"round {number + 1}: {speeds}", flush=True)
        run_img2dataset(urls[:QUALITY_IMAGES], WORK / "img2dataset", Img2datasetSetting(), keep=True)

    compared = compare(files[:QUALITY_IMAGES], WORK / "pairmill" / "run", WORK / "img2dataset" / "out")
    compared_speeds = {
        name: ratios([getattr(run, name) for run in ours], [getattr(run, name) for run in theirs])
        for name in ("steady", "reported", "overall")
    }
    print(f"\n{options.images} JPEGs of a megapixel; img2dataset with {setting}; load before: {began['load_before']}")
    table(
        ["images/s (medians)", "img2dataset", "pairmill", "ratio", "bar"],
        [
            [title, _median(theirs, name), _median(ours, name), f"{compared_speeds[name]['median']:.2f}", bar]
            for title, name, bar in (
                ("while downloading", "steady", f"{BAR_RATIO:.2f}"),
                ("as each reports", "reported", ""),
                ("whole process", "overall", ""),
            )
        ]
        + [
            ["what the cores allow", allowed.peer_bound, allowed.bound, f"{allowed.bound / allowed.peer_bound:.2f}", ""]
        ],
    )
    print(
        f"ms of a core an image: nginx {allowed.ms_server:.2f}, receiving {allowed.ms_client:.2f}, "
        f"pairmill's inspection {allowed.ms_inspect:.2f}, img2dataset's resizer {allowed.ms_peer_resize:.2f}\n"
    )
    show(compared)
    mean_kb = round(sum(file.stat().st_size for file in files) / len(files) / 1000)
    figures = {
        "images": options.images,
        "photographs": {"files": PHOTOGRAPHS, "mean_kb": mean_kb},
        "ratio": compared_speeds,
        "bars": {"ratio_steady": BAR_RATIO, "mean_db": BAR_DB},
        "limits": allowed.as_json(),
        "psnr": compared,
        "pairmill": [run.as_json() for run in ours],
        "img2dataset": [run.as_json() for run in theirs],
    }
    record("download", figures, began)


def _median(runs: Sequence[Run], figure: str) -> float:
    return float(median(getattr(run, figure) for run in runs))


if __name__ == "__main__":
    main()
