"""What a further threshold, head or selection costs on a curated run: seconds, no fetch, and no file of a picture.

    python benchmarks/added.py              about three minutes on 2 cores, after the models of `worth_it.py`

The run is of the list of `worth_it.py`; each case works on a copy of its own, and may not fetch
(`download.enabled=false`): a job that wanted to would end with an error.  A command that changes nothing is the floor:
it starts Python and Ray, and finds that all is there.  Cases alternate, three rounds; a picture's file is the same if
its inode and time are.
"""

from __future__ import annotations

import json
import shutil
import time
from statistics import median

import pyarrow as pa
import pyarrow.parquet as pq
from drawings import drawings, flat
from record import WORK, machine, record, table
from server import serve
from worth_it import FOLDER, RECIPES, curated, run

ROUNDS = 3
STEPS = 400
BASE, RUN = WORK / "added" / "base", WORK / "added" / "run"

HEAD = {
    name: {"name": "mlp", "embedding": "clip", "weights": str(FOLDER / "dfn.safetensors")} for name in ("dfn", "more")
}
#: The first is that of the run, the second is added.
SELECTIONS = {
    "clip": {"top": {"by": "score_clip", "share": 0.6}},
    "best": {"from": "clip", "where": "score_clip > quantile(score_clip, 0.5, by=language)"},
}


def made() -> list[str]:
    """Curate the list into `BASE` by today's code; the recipe's command line."""
    found = drawings()
    if not (FOLDER / "dfn.safetensors").is_file():
        curated(found, STEPS)
    shutil.rmtree(BASE, ignore_errors=True)
    BASE.parent.mkdir(parents=True, exist_ok=True)
    listed = [drawing for drawing in found if drawing.part == "listed"]
    names = flat(FOLDER / "site", listed)
    with serve(FOLDER / "site", FOLDER / "nginx") as server:
        rows = {"url": [f"{server.base}/{name}" for name in names], "text": [drawing.text for drawing in listed]}
        pq.write_table(pa.table(rows), BASE.parent / "list.parquet")
        recipe = [
            *(str(RECIPES / "curate-demo.yaml"), f"run_dir={BASE}", f"input.path={BASE.parent / 'list.parquet'}"),
            *("shards.rows_per_shard=500", "image.size=128", "recaption.enabled=false", "translate.enabled=false"),
            *("filter.languages=null", "download.per_host_concurrency=64"),
            f"embed={json.dumps({'clip': {'model': str(FOLDER / 'scorer')}})}",
            f"score={json.dumps({'dfn': HEAD['dfn']})}",
            f"selections={json.dumps({'clip': SELECTIONS['clip']})}",
        ]
        run("curate", *recipe)
    return recipe


def pictures() -> dict[str, tuple[int, int]]:
    """The files of pictures, and what tells whether one was written."""
    files = [file for file in (RUN / "images").rglob("*") if file.is_file()]
    return {str(file.relative_to(RUN)): (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}


def main() -> None:
    began = machine()
    recipe = made()
    # The run's folder is that of the copy, and all else is as it was.
    recipe = [f"run_dir={RUN}" if one.startswith("run_dir=") else one for one in recipe] + ["download.enabled=false"]
    selection = WORK / "added" / "best.yaml"
    selection.write_text(json.dumps({"selections": {"best": SELECTIONS["best"]}}))
    cases: dict[str, list[str]] = {
        "nothing": ["curate", *recipe],
        "threshold": ["curate", *recipe, "filter.min_sharpness=20"],
        "head": ["curate", *recipe, f"score={json.dumps(HEAD)}"],
        "selection": ["select", str(RUN), str(selection)],
    }
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    same: dict[str, bool] = {}
    kept: dict[str, int] = {}
    rows = 0
    for _ in range(ROUNDS):
        for name, command in cases.items():
            shutil.rmtree(RUN, ignore_errors=True)
            shutil.copytree(BASE, RUN)
            before = pictures()
            start = time.perf_counter()
            done = run(*command)
            seconds[name].append(time.perf_counter() - start)
            same[name] = pictures() == before
            kept[name] = done["rows_kept"]["best"] if name == "selection" else done["rows_kept"]
            rows = done.get("rows_in", rows)
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
