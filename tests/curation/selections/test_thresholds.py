"""The thresholds of a selection, read back from what its manifests record, against the rows that it keeps."""

from __future__ import annotations

import ast
import json
from typing import Any

import numpy as np
import pytest
from brute import groups, quantile, some_rows
from layouts import LocalPasses

from curation.selections.config import Section
from curation.selections.steps import Found, Rules, ShardRows, staying
from curation.selections.thresholds import GROUPS, Threshold, comparisons, facts_of, thresholds_of
from curation.selections.whole_run import find

ROWS = some_rows(500)
LIVE = np.array([reason is None for reason in ROWS["drop_reason"].to_pylist()])


def found_by(config: dict[str, Any]) -> tuple[Rules, Found]:
    rules = Rules("one", Section.checked({"selections": {"one": config}}).selections["one"])

    def no_families(among: Any) -> Any:
        raise AssertionError("no rule of these looks for duplicates")

    return rules, find(rules, LocalPasses(1), lambda _: ShardRows(0, ROWS), no_families, rows=len(ROWS))


def made(config: dict[str, Any]) -> tuple[np.ndarray[Any, Any], list[Threshold]]:
    """Which rows the selection keeps, and its thresholds from its facts as JSON keeps them."""
    rules, found = found_by(config)
    facts = json.loads(json.dumps(facts_of(rules, found)))
    return staying(rules.reasons(ShardRows(0, ROWS), found)), thresholds_of("one", facts)


def passing(threshold: Threshold) -> np.ndarray[Any, Any]:
    return threshold.passes(threshold.numbers(ROWS), threshold.limits(ROWS))


@pytest.mark.parametrize(
    ("where", "number"),
    [
        ("score > 0.3", 1),
        ("0.3 < score", 1),
        ("-0.5 <= score < 1.5 and width >= 200", 3),
        ("score > quantile(score, 0.7)", 1),
        ("score > quantile(score, 0.7, by=language)", 1),
        ("quantile(width, 0.2, by=host(url)) < width and width <= 400", 2),
        ("score >= quantile(score, 0.2, by=language) * 0.5 - 0.1", 1),
        ("width > quantile(score, 0.9) + quantile(width, 0.3, by=language)", 1),
        ("width / original_width > 0.7 and len(caption) >= 8 and -score < 1", 3),
        ("width > count() / 3", 1),
    ],
)
def test_rows_that_pass_all_comparisons_are_those_that_stay(where: str, number: int) -> None:
    kept, thresholds = made({"where": where})
    assert len(thresholds) == number
    assert 0 < kept.sum() < LIVE.sum()
    assert (np.logical_and.reduce([passing(one) for one in thresholds]) & LIVE).tolist() == kept.tolist()


@pytest.mark.parametrize("per", [None, "language", "host"])
def test_the_threshold_of_top_is_the_last_score_that_stays(per: str | None) -> None:
    kept, [one] = made({"top": {"by": "width", "share": 0.4, "per": per}})
    assert (one.rule, one.subject, one.sign) == ("top", "width", ">=")
    above = one.numbers(ROWS) > one.limits(ROWS)
    assert (above & LIVE <= kept).all() and (kept <= passing(one)).all()
    assert set(one.numbers(ROWS)[kept & ~above]) <= set(one.limits(ROWS))


def test_a_quantile_has_a_number_for_each_group() -> None:
    _, [one] = made({"where": "score > quantile(score, 0.7, by=language)"})
    live = [row for row in ROWS.to_pylist() if row["drop_reason"] is None]
    expected = {
        language: quantile(rows, lambda row: row["score"], 0.7)
        for language, rows in groups(live, lambda row: row["language"]).items()
    }
    found = dict(zip(one.groups(ROWS), one.limits(ROWS).tolist(), strict=True))
    assert one.by == "language" and found == expected and None in expected


@pytest.mark.parametrize(
    "where",
    [
        "language == 'en'",
        "language > 'en'",
        "width > original_width",
        "random(7) < 0.3",
        "width == 128",
        "width in (128, 129)",
        "count(by=language) > 3",
        "matches(caption, '3 < 4')",
        "is_null(score)",
    ],
)
def test_what_compares_no_number_with_a_threshold_has_none(where: str) -> None:
    assert list(comparisons(ast.parse(where, mode="eval").body)) == []


def test_a_comparison_that_is_written_twice_is_one() -> None:
    _, thresholds = made({"where": "(score > 0 and width > 99) or (score > 0 and width < 90)"})
    assert [(one.subject, one.sign, one.against) for one in thresholds] == [
        ("score", ">", "0"),
        ("width", ">", "99"),
        ("width", "<", "90"),
    ]


def test_chance_and_missing_numbers_decide_no_threshold() -> None:
    assert made({"top": {"by": "random(3)", "rows": 9}})[1] == []
    assert made({"top": {"rows": 9}})[1] == []
    assert made({"top": {"by": "score / 0", "rows": 9}})[1][0].limits(ROWS).tolist() == pytest.approx(
        [np.nan] * len(ROWS), nan_ok=True
    )


def test_what_is_recorded_is_bounded_and_says_how_much_there_is() -> None:
    rules, found = found_by({"where": "width > quantile(width, 0.5, by=url)"})
    [values] = facts_of(rules, found)["where"]["values"].values()
    assert values["groups"] == LIVE.sum() > len(values["of"]) == GROUPS
