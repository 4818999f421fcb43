"""What a further threshold, head or selection costs on a curated run: seconds, no fetch, and no file of a picture.

    python benchmarks/added.py              about three minutes on 2 cores; makes the run of `worth_it.py` if need be

The run is the curated one of `worth_it.py`; each case works on a copy of its own, and may not fetch
(`download.enabled=false`): a job that wanted to would end with an error.  A command that changes nothing is the floor:
it starts Python and Ray, and finds that all is there.  Cases alternate, three rounds; a picture's file is the same if
its inode and time are.
"""

from __future__ import annotations

import json
import shutil
import time
from statistics import median
from typing import Any

from drawings import drawings
from record import WORK, machine, record, table
from worth_it import FOLDER, curated, run

ROUNDS = 3
STEPS = 400
RUN = WORK / "added" / "run"

HEAD = {
    name: {"name": "mlp", "embedding": "clip", "weights": str(FOLDER / "dfn.safetensors")} for name in ("dfn", "more")
}
SELECTION = {"best": {"from": "clip", "where": "score_clip > quantile(score_clip, 0.5, by=language)"}}


def pictures() -> dict[str, tuple[int, int]]:
    """The files of pictures, and what tells whether one was written."""
    files = [file for file in (RUN / "images").rglob("*") if file.is_file()]
    return {str(file.relative_to(RUN)): (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}


def main() -> None:
    began = machine()
    recipe = curated(drawings(), STEPS)
    rows = run("curate", *recipe)["rows_in"]
    # The run's folder is that of the copy, and all else is as it was.
    recipe = [f"run_dir={RUN}" if one.startswith("run_dir=") else one for one in recipe] + ["download.enabled=false"]
    selection = WORK / "added" / "best.yaml"
    selection.parent.mkdir(parents=True, exist_ok=True)
    selection.write_text(json.dumps({"selections": SELECTION}))
    cases: dict[str, list[str]] = {
        "nothing": ["curate", *recipe],
        "threshold": ["curate", *recipe, "filter.enabled=true", "filter.min_sharpness=20"],
        "head": ["curate", *recipe, f"score={json.dumps(HEAD)}"],
        "selection": ["select", str(RUN), str(selection)],
    }
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    same: dict[str, bool] = {}
    kept: dict[str, Any] = {}
    for _ in range(ROUNDS):
        for name, command in cases.items():
            shutil.rmtree(RUN, ignore_errors=True)
            shutil.copytree(FOLDER / "run", RUN)
            before = pictures()
            start = time.perf_counter()
            done = run(*command)
            seconds[name].append(time.perf_counter() - start)
            same[name] = pictures() == before
            kept[name] = done["rows_kept"]
    shutil.rmtree(RUN)
    floor = median(seconds["nothing"])
    figures = {
        name: {
            "seconds": round(median(found), 1),
            "more than nothing": round(median(found) - floor, 1),
            "pictures untouched": same[name],
            "rows kept": kept[name],
        }
        for name, found in seconds.items()
    }
    table(
        ["change", "seconds", "more than nothing", "pictures untouched", "rows kept"],
        [[name, *entry.values()] for name, entry in figures.items()],
    )
    record("added", {"rows": rows, "rounds": ROUNDS, "changes": figures}, began)


if __name__ == "__main__":
    main()
