"""Numbers that a rule may compare and that no chart was made for: the report is built all the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from selected_run import selected_run

from curation.results.report import write_report

LONG = 1_234_567_890_123_456_789


@pytest.mark.parametrize(
    ("values", "where", "kept"),
    [
        ([LONG + 2000 * n for n in range(12)], f"input.x > {LONG + 9000}", 7),
        ([1.7e308, -1.7e308, 1.0] * 4, "input.x < 5", 8),
        ([1.7e308] * 12, "input.x > 1.0", 12),
        ([5e-324, 0.0, -5e-324] * 4, "input.x > 0.0", 4),
    ],
)
def test_every_number_of_a_list_can_be_compared(tmp_path: Path, values: list[Any], where: str, kept: int) -> None:
    rows = [{"url": f"http://a.example/ok/{n}", "text": f"a ball, {n}", "x": x} for n, x in enumerate(values)]
    report = write_report(selected_run(tmp_path, {"a": {"where": where}}, "a", rows), selection="a")
    [score] = report["scores"]
    assert (score["name"], score["rows"], score["missing"]) == ("input.x", len(rows), 0)
    assert (sum(score["all"]), sum(score["kept"])) == (len(rows), kept)
    assert score["min"] == pytest.approx(min(values), rel=1e-5) and score["max"] == pytest.approx(max(values), rel=1e-5)


def test_a_column_of_the_stages_may_have_long_numbers(tmp_path: Path) -> None:
    rows = [{"url": f"http://a.example/ok/{n}", "text": f"a ball, {n}"} for n in range(12)]
    store = selected_run(tmp_path, {"a": {"where": "phash > 0"}}, "a", rows)
    assert [score["name"] for score in write_report(store, selection="a")["scores"]] == ["phash"]
