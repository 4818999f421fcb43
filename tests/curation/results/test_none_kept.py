"""A run that keeps no row says why, and what would keep some."""

from __future__ import annotations

from typing import Any

import pytest

from curation.results.advice import advice


def report(kept: int, pending: int = 0, **dropped: int) -> dict[str, Any]:
    rows = kept + pending + sum(dropped.values())
    return {
        "run_dir": "runs/x",
        "rows_in": rows,
        "rows_kept": kept,
        "rows_pending": pending,
        "stages": [{"dropped": {name: n}} for name, n in dropped.items()],
        "policy": {"retry": {}, "no_evidence": {}},
    }


@pytest.mark.parametrize(
    ("reason", "fix"),
    [
        ("forbidden_address", "download.allow_networks"),
        ("forbidden_scheme", "input.url_column"),
        ("text_too_short", "pairmill rows"),
    ],
)
def test_the_commonest_reason_is_named_with_what_allows_it(reason: str, fix: str) -> None:
    (line,) = advice(report(0, timeout=2, **{reason: 5}))
    assert f"5 of 7, were dropped as {reason}" in line and fix in line


def test_a_run_that_keeps_rows_or_is_not_done_says_nothing() -> None:
    assert advice(report(1, timeout=2)) == advice(report(0, pending=1, timeout=2)) == advice(report(0)) == []
