"""The filter's own thresholds in the report: their scores over the rows that come to the filter, and both sides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from run_fixture import fate, make_run

from curation.filters.stage import FilterConfig
from curation.flow import flow_of
from curation.results.filter_thresholds import RULES, filter_thresholds
from curation.results.page import render
from curation.results.report import build_report
from curation.schema import set_columns
from pairmill.recipe_file import run_recipe, write_recipe
from pairmill.store import Store


def run_with(folder: Path, section: dict[str, Any]) -> Store:
    """A run of 20 kept rows and 10 that the filter drops as unsafe, with a score of each, and 4 that were not found."""
    urls = [f"http://a.example/{name}/{n}" for name, count in (("ok", 20), ("nsfw", 10)) for n in range(count)]
    urls += [f"http://a.example/http_client_error/{n}" for n in range(4)]
    rows = [{"url": url, "text": f"a ball, {n}"} for n, url in enumerate(urls)]
    store = make_run(folder, rows, rows_per_shard=9, recaption=False, translate=False)
    write_recipe(store, yaml.safe_dump({**run_recipe(store), "filter": section}))
    for shard in sorted(store.index("plan")):
        table, plan = store.load("columns/filter", shard), store.load("plan", shard)
        entry = store.entry("columns/filter", shard)
        assert entry is not None
        scores = [score_of(url) for url in plan["url"].to_pylist()]
        manifest = store.manifest("columns/filter", shard, entry) or {}
        changed = set_columns(table, {"nsfw": pa.array(scores, pa.float32())})
        store.commit("columns/filter", shard, entry.key, changed, manifest)
    return store


def score_of(url: str) -> float | None:
    number = int(url.rpartition("/")[2])
    return {"ok": number / 100, "nsfw": 0.55 + number / 100}.get(fate(url))


def test_a_score_of_the_filter_has_a_histogram_a_line_and_both_sides(tmp_path: Path) -> None:
    store = run_with(tmp_path, {"nsfw_max": 0.5, "min_language_score": 0.2})
    report = build_report(store)
    found = {one["selection"]: one for one in report["thresholds"]}
    assert set(found) == {"filter.nsfw_max", "filter.min_language_score"}
    unsafe = found["filter.nsfw_max"]
    assert (unsafe["subject"], unsafe["sign"], unsafe["against"]) == ("nsfw", "<=", "0.5")
    assert [limit["value"] for limit in unsafe["limits"]] == [0.5] and unsafe["limits"][0]["rows"] == 30
    assert (unsafe["passing"]["rows"], unsafe["failing"]["rows"]) == (20, 10)
    nearest = [row["value"] for row in unsafe["failing"]["shown"]]
    assert nearest == pytest.approx([0.55, 0.56, 0.57, 0.58, 0.59, 0.6])
    assert [row["value"] for row in unsafe["passing"]["shown"]] == pytest.approx([0.19, 0.18, 0.17, 0.16, 0.15, 0.14])
    assert all(row["withheld"] for row in unsafe["failing"]["shown"])
    assert not any(row["withheld"] for row in unsafe["passing"]["shown"])
    # Those that pass one rule and go for another are on neither side of the first.
    language = found["filter.min_language_score"]
    assert (language["passing"]["rows"], language["failing"]["rows"]) == (20, 0)
    scores = {one["name"]: one for one in report["scores"]}
    assert (scores["nsfw"]["rows"], sum(scores["nsfw"]["all"]), sum(scores["nsfw"]["kept"])) == (30, 30, 20)
    assert scores["nsfw"]["missing"] == 0
    assert "filter.nsfw_max" in render(report, {}, {})


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({}, []),
        ({"enabled": False, "nsfw_max": 0.5}, []),
        ({"nsfw_max": 0.5, "score_only": ["nsfw"]}, []),
        ({"min_sharpness": 3, "min_entropy": 1}, [("sharpness", ">=", 3.0), ("entropy", ">=", 1.0)]),
        (
            {"where": "1 < width / height <= 2 and caption != 'x'"},
            [("width / height", ">", 1), ("width / height", "<=", 2)],
        ),
    ],
)
def test_what_is_a_threshold_of_the_filter(section: dict[str, Any], expected: list[tuple[str, str, float]]) -> None:
    flow = flow_of({"filter": section})
    found = [one.threshold for one in filter_thresholds(flow)]
    assert [(one.subject, one.sign, float(one.against)) for one in found] == expected


def test_every_rule_on_a_score_of_the_filter_is_known() -> None:
    """Keys that are a number from 0 or 1 and name a column of their own: a new one needs a line."""
    least = {name for name in FilterConfig.model_fields if name.startswith("min_") or name.endswith("_max")}
    # Of what a text or a file is as a whole, there is no gallery to look at.
    plain = {"min_side", "min_bytes", "min_characters", "min_words"}
    assert least - plain == set(RULES)


def test_the_comparison_is_that_of_the_rule() -> None:
    rows = pa.table({"nsfw": pa.array([0.2, 0.5, 0.51, None], pa.float32())})
    [one] = filter_thresholds(flow_of({"filter": {"nsfw_max": 0.5}}))
    numbers, limits = one.threshold.numbers(rows), one.threshold.limits(rows)
    assert one.threshold.passes(numbers, limits).tolist() == [True, True, False, False]
    assert np.isnan(numbers[3]) and one.reason == "nsfw"
