"""User callables: found by import path, checked in what they return."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from curation.filters.custom import CustomConfig, callable_reads, keep_mask
from pairmill.errors import JobError, RecipeError

ROWS = pa.table({"uid": ["a", "b", "c"], "n": [1, 2, 3]})


def odd(rows: pa.Table) -> Any:
    return pc.equal(pc.bit_wise_and(rows["n"], 1), 1)


def license_free(rows: pa.Table) -> pa.Array:
    return pc.equal(rows["license"], "cc0")


license_free.reads = ("license",)  # type: ignore[attr-defined]  # the documented way to ask for a column


def null_for_two(rows: pa.Table) -> pa.Array:
    return pa.array([True, None, False])


def all_null(rows: pa.Table) -> pa.Array:
    return pa.nulls(len(rows))


def too_short(rows: pa.Table) -> pa.Array:
    return pa.array([True])


def numbers(rows: pa.Table) -> pa.Array:
    return pa.array([1, 0, 1])


def a_list(rows: pa.Table) -> list[bool]:
    return [True, True, False]


def fails(rows: pa.Table) -> pa.Array:
    raise KeyError("aesthetic")


def fails_on_two(rows: pa.Table) -> pa.Array:
    return pa.array([1 // (n - 2) != 0 for n in rows["n"].to_pylist()])


def exits(rows: pa.Table) -> pa.Array:
    raise SystemExit(3)


def sleeps(rows: pa.Table) -> pa.Array:
    threading.Event().wait()


not_a_function = 3


def at(name: str) -> str:
    return f"{__name__}:{name}"


@pytest.mark.parametrize(
    ("name", "kept"),
    [("odd", [True, False, True]), ("null_for_two", [True, False, False]), ("all_null", [False, False, False])],
)
def test_null_drops(name: str, kept: list[bool]) -> None:
    assert keep_mask(at(name), ROWS, CustomConfig()).to_pylist() == kept


def test_a_function_is_not_called_for_no_rows() -> None:
    assert keep_mask(at("fails"), ROWS.slice(0, 0), CustomConfig()).to_pylist() == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("too_short", "returned 1 values for 3 rows"),
        ("numbers", "boolean pyarrow array, got int64"),
        ("a_list", "boolean pyarrow array, got list"),
        ("fails", r"fails raised KeyError: 'aesthetic' \(.*test_custom.py:\d+\), for the row with uid a\n"),
        ("fails_on_two", r"fails_on_two raised ZeroDivisionError: .*, for the row with uid b\n"),
        ("exits", r"exits raised SystemExit: 3 .*, for the row with uid a\n"),
    ],
)
def test_a_wrong_answer_is_an_error_that_names_the_function(name: str, message: str) -> None:
    with pytest.raises(JobError, match=message):
        keep_mask(at(name), ROWS, CustomConfig())


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_module:f", "No module named 'no_such_module'"),
        (at("no_such_function"), "no_such_function"),
        (at("not_a_function"), "must list functions"),
        ("curation.filters.custom", "import path"),
        ("os:path.join", "import path"),
        ("", "import path"),
    ],
)
def test_a_path_that_leads_nowhere_is_refused_with_the_recipe(path: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        CustomConfig(callables=(path,))


def test_reads() -> None:
    assert callable_reads(at("license_free")) == ("license",)
    assert callable_reads(at("odd")) == ()


def test_rows_that_a_function_fails_on_may_be_dropped() -> None:
    config = CustomConfig(callables_on_error="drop")
    assert keep_mask(at("fails_on_two"), ROWS, config).to_pylist() == [True, False, True]
    with pytest.raises(JobError, match="returned 1 values for 3 rows"):
        keep_mask(at("too_short"), ROWS, config)


def test_a_function_that_does_not_return_is_ended() -> None:
    with pytest.raises(JobError, match=r"sleeps took longer than 0\.05 s"):
        keep_mask(at("sleeps"), ROWS, CustomConfig(callables_timeout_s=0.05, callables_on_error="drop"))


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_any_number_of_rows_may_be_dropped(rows: int) -> None:
    config = CustomConfig(callables_on_error="drop")
    assert keep_mask(at("fails"), ROWS.slice(0, rows), config).to_pylist() == [False] * rows


def swallows(rows: pa.Table) -> pa.Array:
    """Catches what it can, for each row."""
    found = []
    for _ in range(len(rows)):
        try:
            threading.Event().wait(1)
            found.append(True)
        except Exception:
            found.append(False)
    return pa.array(found)


def cancelled(rows: pa.Table) -> pa.Array:
    raise asyncio.CancelledError


def test_a_time_limit_cannot_be_swallowed() -> None:
    with pytest.raises(JobError, match="swallows took longer"):
        keep_mask(at("swallows"), ROWS, CustomConfig(callables_timeout_s=0.05))


def test_errors_that_are_no_exceptions_are_the_functions_too() -> None:
    with pytest.raises(JobError, match="cancelled raised CancelledError"):
        keep_mask(at("cancelled"), ROWS, CustomConfig())
    assert keep_mask(at("cancelled"), ROWS, CustomConfig(callables_on_error="drop")).to_pylist() == [False] * 3
