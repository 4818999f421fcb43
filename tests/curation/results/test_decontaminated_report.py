"""The report of a run that was compared with a set, by the stage itself: rows whose picture is in the set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from run_fixture import make_run, picture
from score_tables import add_table

from curation.decontamination.stage import Decontaminate
from curation.flow import flow_of
from curation.results.report import write_report
from curation.schema import DROPS, set_columns
from curation.stage import Runtime

URLS = [f"http://a.example/ok/{number}" for number in range(40)]


def test_planted_pictures_are_shown_beside_their_originals(tmp_path: Path) -> None:
    store = make_run(
        tmp_path,
        [{"url": url, "text": f"a ball, number {url[-2:]}"} for url in URLS],
        rows_per_shard=11,
        recaption=False,
        translate=False,
    )
    (tmp_path / "set").mkdir()
    for url in URLS[3:5]:
        (tmp_path / "set" / f"{url[-1]}.jpg").write_bytes(picture(url))
        (tmp_path / "set" / f"{url[-1]}.txt").write_text("another caption\n")
    section = {"decontaminate": {"shown": {"path": str(tmp_path / "set"), "kinds": ["same_image"]}}}
    stage = flow_of(section).named("decontaminate-shown")
    assert isinstance(stage, Decontaminate)
    stage.make_pieces(store, stage.outstanding_pieces(store))
    stage.setup(Runtime(store))

    def made(plan: pa.Table, alive: np.ndarray[Any, np.dtype[np.bool_]]) -> dict[str, Any]:
        shard = next(n for n in store.index("plan") if store.load("plan", n, ["uid"])["uid"].equals(plan["uid"]))
        images, filtered = store.load("images", shard), store.load("columns/filter", shard, [*DROPS, "caption"])
        rows = set_columns(images, {name: filtered[name] for name in filtered.schema.names})
        rows = set_columns(rows, {"_shard": pa.repeat(pa.scalar(shard, pa.int32()), len(rows))})
        found = stage(rows)
        return {column.name: found[column.name] for column in stage.adds}

    add_table(store, section, "decontaminate-shown", made)
    report = write_report(store)
    [found] = report["contamination"]
    assert (found["set"], found["compared"], found["rows"]) == ("shown", 40, 2)
    [kind] = found["kinds"]
    assert {pair["row"]["url"] for pair in kind["pairs"]} == set(URLS[3:5])
    assert {pair["captions"][0] for pair in kind["pairs"]} == {"another caption"}
    page = store.read_text("report.html") or ""
    shown = page[page.index("Matches with evaluation sets") : page.index("Rows kept")]
    assert shown.count("<img") == 4
    assert "match_count_shown" not in [score["name"] for score in report["scores"]]
