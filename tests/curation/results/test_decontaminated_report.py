"""The report of a run that was compared with a set, by the stage itself: rows whose picture is in the set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from run_fixture import make_run, picture
from score_tables import add_table
from selected_run import select

from curation.decontamination.stage import Decontaminate
from curation.flow import flow_of
from curation.results.report import build_report, write_report
from curation.schema import DROPS, set_columns
from curation.stage import Runtime
from pairmill.store import Store

URLS = [f"http://a.example/ok/{number}" for number in range(40)]


def compared_run(folder: Path, rows: Sequence[Mapping[str, Any]], items: Mapping[str, bytes], upto: str) -> Store:
    """A run of these rows that was compared with a set of pictures by the names of their files."""
    store = make_run(folder, rows, upto=upto, rows_per_shard=11, recaption=False, translate=False)
    (folder / "set").mkdir()
    for name, data in items.items():
        (folder / "set" / f"{name}.jpg").write_bytes(data)
        (folder / "set" / f"{name}.txt").write_text("another caption\n")
    section = {"decontaminate": {"shown": {"path": str(folder / "set"), "kinds": ["same_image"]}}}
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
    return store


def planted(folder: Path, upto: str = "pack", **columns: Any) -> Store:
    rows = [{"url": url, "text": f"a ball, number {url[-2:]}", **columns} for url in URLS]
    return compared_run(folder, rows, {url[-1]: picture(url) for url in URLS[3:5]}, upto)


def shown_matches(store: Store) -> str:
    page = store.read_text("report.html") or ""
    return page[page.index("Matches with evaluation sets") : page.index("Rows kept")]


def test_planted_pictures_are_shown_beside_their_originals(tmp_path: Path) -> None:
    store = planted(tmp_path)
    report = write_report(store)
    [found] = report["contamination"]
    assert (found["set"], found["compared"], found["rows"]) == ("shown", 40, 2)
    [kind] = found["kinds"]
    assert {pair["row"]["url"] for pair in kind["pairs"]} == set(URLS[3:5])
    assert {pair["captions"][0] for pair in kind["pairs"]} == {"another caption"}
    assert shown_matches(store).count("<img") == 4
    assert "match_count_shown" not in [score["name"] for score in report["scores"]]


def test_an_item_that_shows_what_is_withheld_of_a_row_is_withheld_too(tmp_path: Path) -> None:
    store = planted(tmp_path, nsfw_score=0.9)
    select(store, {"safe": {"where": "input.nsfw_score < 0.5"}})
    report = write_report(store)
    assert len(report["contamination"][0]["kinds"][0]["pairs"]) == 2
    assert "<img" not in shown_matches(store) and shown_matches(store).count("withheld") >= 2


def test_rows_that_match_are_no_kind_of_duplicates(tmp_path: Path) -> None:
    rows = [{"url": f"http://a.example/same-{n % 3}/{n}", "text": f"a ball {n}"} for n in range(20)]
    store = compared_run(tmp_path, rows, {"x": picture("same-0")}, "select")
    families = {"dedup": ["exact"], "keep": "all"}
    select(store, {"families": families, "rest": {"from": "families", "decontaminate": "shown"}}, "rest")
    report = build_report(store, selection="rest")
    assert {one["kind"] for one in report["duplicates"] if "rest" in one["selections"]} == {"group"}
    assert report["stages"][-1]["dropped"] == {"contaminated_shown": 7}
