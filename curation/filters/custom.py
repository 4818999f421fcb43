"""Filter by the user's own functions, named by import path.

reads: what the function's `reads` names, in addition to the columns of the stage
adds:  —
drops: callable

    def keep_wide(rows: pa.Table) -> pa.Array:      # filter.callables: ["my_filters:keep_wide"]
        return pc.greater(rows["width"], rows["height"])
    keep_wide.reads = ("width", "height")           # optional
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator

from pairmill.config import EXECUTION, Config
from pairmill.errors import JobError, RecipeError
from pairmill.own_code import LONGEST_S, Guard

Keep = Callable[[pa.Table], Any]


class CustomConfig(Config):
    """The user's functions, checked when the recipe is read."""

    callables: tuple[str, ...] = Field(
        (),
        description="functions package.module:function from a table of live rows to a boolean array; true keeps, null "
        "drops",
    )

    callables_on_error: Literal["fail", "drop"] = Field(
        "fail",
        description="what becomes of a row that a function raises for: fail ends the job and names function and row; "
        "drop drops it as `callable`",
    )
    callables_timeout_s: float = Field(
        600.0,
        gt=0,
        le=LONGEST_S,
        description="seconds that a function, or an image head of your own, may take for the rows of a shard",
        json_schema_extra=EXECUTION,
    )

    @field_validator("callables")
    @classmethod
    def _importable(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for path in value:
            load_callable(path)
        return value


@cache
def load_callable(path: str) -> Keep:
    """The function at `package.module:function`; raises RecipeError if there is none."""
    module, colon, name = path.partition(":")
    if not colon or not module or not name.isidentifier():
        raise RecipeError(
            "filter.callables must list import paths", value=path, fix="write it as package.module:function"
        )
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:  # importing runs the user's code, which may raise anything
        raise RecipeError(
            "filter.callables must list functions that can be imported",
            value=f"{path}: {type(error).__name__}: {error}",
            fix="check the spelling, and that the module is on PYTHONPATH here and on the workers",
        ) from error
    if not callable(found):
        raise RecipeError(
            "filter.callables must list functions", value=f"{path} is a {type(found).__name__}", fix="name a function"
        )
    return found  # type: ignore[no-any-return]  # getattr on a module is Any


def callable_reads(path: str) -> tuple[str, ...]:
    """Columns that the function asks for by its attribute `reads`."""
    return tuple(getattr(load_callable(path), "reads", ()))


def keep_mask(path: str, rows: pa.Table, config: CustomConfig) -> pa.Array:
    """The function's verdict on each of `rows`; false for those that it fails on, if they are dropped.

    It is not called without rows.  Raises JobError if it fails, answers wrongly or takes too long.
    """
    if not rows.num_rows:
        return pa.array([], pa.bool_())
    guard = Guard(
        f"filter.callables: {path}",
        timeout_s=config.callables_timeout_s,
        key="filter.callables_on_error",
        drop=config.callables_on_error == "drop",
        limit="filter.callables_timeout_s",
    )
    answers = guard.answers(lambda some: _verdict(path, some), rows)
    return pa.concat_arrays([pa.array([False]) if one.value is None else one.value for one in answers])


def _verdict(path: str, rows: pa.Table) -> pa.Array:
    """The function's answer.  Raises JobError for one that is no mask of `rows`."""
    if not rows.num_rows:
        return pa.array([], pa.bool_())
    answer = load_callable(path)(rows)
    if isinstance(answer, pa.ChunkedArray):
        answer = answer.combine_chunks()
    if isinstance(answer, pa.NullArray):
        answer = answer.cast(pa.bool_())
    if not isinstance(answer, pa.Array) or not pa.types.is_boolean(answer.type):
        kind = answer.type if isinstance(answer, pa.Array) else type(answer).__name__
        raise JobError(f"filter.callables: {path} must return a boolean pyarrow array, got {kind}")
    if len(answer) != len(rows):
        raise JobError(
            f"filter.callables: {path} must return a value for each row, "
            f"and returned {len(answer)} values for {len(rows)} rows"
        )
    return pc.fill_null(answer, False)
