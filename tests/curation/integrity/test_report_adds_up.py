"""No row vanishes from a report: within each stage, from each stage to the next, and over the whole run."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from damage import RunUpto, rewrite, without
from run_fixture import make_run

from curation.plan import open_plan
from curation.plan_file import write_plan
from curation.results.report import _check_identity, build_report, write_report
from pairmill.errors import IntegrityError


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The report of a finished run."""
    return build_report(make_run(tmp_path_factory.mktemp("finished")))


def test_a_plan_that_lost_a_row_makes_no_report(run_upto: RunUpto) -> None:
    store = run_upto("plan")
    rewrite(store, "plan", 3, without(0))
    with pytest.raises(IntegrityError, match="plan: rows in must"):
        write_report(store)
    assert not store.exists("report.json") and not store.exists("report.html")


def test_nor_does_one_that_has_a_row_too_many(run_upto: RunUpto) -> None:
    store = run_upto("plan")
    write_plan(store, open_plan(store).model_copy(update={"rows": 39}))
    with pytest.raises(IntegrityError, match="plan: rows in must"):
        build_report(store)


def _stage(report: dict[str, Any], name: str) -> dict[str, Any]:
    return next(stage for stage in report["stages"] if stage["name"] == name)


def _loses_a_row(report: dict[str, Any]) -> None:
    _stage(report, "filter")["rows_kept"] -= 1


def _drops_a_row_twice(report: dict[str, Any]) -> None:
    _stage(report, "filter")["dropped"]["nsfw"] += 1


def _loses_a_row_between_stages(report: dict[str, Any]) -> None:
    stage = _stage(report, "deduplicate")
    stage["rows_in"] -= 1
    stage["rows_kept"] -= 1


def _makes_rows(report: dict[str, Any]) -> None:
    stage = _stage(report, "pack")
    for name in ("rows_in", "rows_kept"):
        stage[name] += 2
    stage["rows_pending"] = -2


def _keeps_and_drops_too_many(report: dict[str, Any]) -> None:
    report["rows_pending"] = -1


def _ends_too_soon(report: dict[str, Any]) -> None:
    report["rows_pending"] = 1


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_loses_a_row, r"filter: rows in must .* kept and dropped"),
        (_drops_a_row_twice, r"filter: rows in must .* kept and dropped"),
        (_loses_a_row_between_stages, r"deduplicate: rows in must .* kept before it"),
        (_makes_rows, "pack: it must not have more rows than the stage before it kept"),
        (_keeps_and_drops_too_many, "rows kept and dropped"),
        (_ends_too_soon, "every row of a complete run must be kept or dropped"),
    ],
)
def test_rows_that_do_not_add_up_are_refused(
    finished: dict[str, Any], damage: Callable[[dict[str, Any]], None], says: str
) -> None:
    report = copy.deepcopy(finished)
    _check_identity(report)
    damage(report)
    with pytest.raises(IntegrityError, match=says):
        _check_identity(report)
