"""User callables: found by import path, checked in what they return."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from curation.filters.custom import CustomConfig, callable_reads, keep_mask
from pairmill.errors import JobError, RecipeError

ROWS = pa.table({"n": [1, 2, 3]})


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


not_a_function = 3


def at(name: str) -> str:
    return f"{__name__}:{name}"


@pytest.mark.parametrize(
    ("name", "kept"),
    [("odd", [True, False, True]), ("null_for_two", [True, False, False]), ("all_null", [False, False, False])],
)
def test_null_drops(name: str, kept: list[bool]) -> None:
    assert keep_mask(at(name), ROWS).to_pylist() == kept


def test_a_function_is_not_called_for_no_rows() -> None:
    assert keep_mask(at("fails"), ROWS.slice(0, 0)).to_pylist() == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("too_short", "returned 1 values for 3 rows"),
        ("numbers", "boolean pyarrow array, got int64"),
        ("a_list", "boolean pyarrow array, got list"),
        ("fails", r"fails raised KeyError: 'aesthetic' \(.*test_custom.py:\d+\)"),
    ],
)
def test_a_wrong_answer_is_an_error_that_names_the_function(name: str, message: str) -> None:
    with pytest.raises(JobError, match=message):
        keep_mask(at(name), ROWS)


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
