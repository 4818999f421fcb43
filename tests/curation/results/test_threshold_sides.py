"""Which rows the report counts on either side of a threshold: those that this rule of this selection leaves out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selected_run import selected_run

from curation.results.report import build_report


def sides(folder: Path, selections: dict[str, Any]) -> dict[tuple[str, str], tuple[int, int]]:
    """(selection, subject) -> rows that pass, and rows that fail, of 40."""
    rows = [{"url": f"http://a.example/ok/{n}", "text": f"a ball {n}", "x": n, "y": n % 2} for n in range(40)]
    report = build_report(selected_run(folder, selections, None, rows))
    return {
        (one["selection"], one["subject"]): (one["passing"]["rows"], one["failing"]["rows"])
        for one in report["thresholds"]
    }


def test_rows_that_another_selection_left_out_are_not_counted_again(tmp_path: Path) -> None:
    found = sides(
        tmp_path,
        {
            "base": {"where": "input.x >= 30"},
            "good": {"from": "base", "where": "input.y > 0.5"},
            "rest": {"from": "~base", "where": "input.y > 0.5"},
            "first": {"from": "good", "top": {"by": "input.x", "rows": 2}},
            "last": {"from": "first", "top": {"by": "-input.x", "rows": 1}},
        },
    )
    assert found == {
        ("base", "input.x"): (10, 30),
        ("good", "input.y"): (5, 5),
        ("rest", "input.y"): (15, 15),
        ("first", "input.x"): (2, 3),
        ("last", "-input.x"): (1, 1),
    }


def test_of_equal_scores_those_that_go_are_counted_too(tmp_path: Path) -> None:
    assert sides(tmp_path, {"first": {"top": {"by": "input.y", "rows": 5}}}) == {("first", "input.y"): (5, 35)}
