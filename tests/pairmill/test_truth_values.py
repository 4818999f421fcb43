"""True and false are numbers of Python, and of no recipe."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, field_validator, model_validator
from typing_extensions import Self

from pairmill.config import Config
from pairmill.errors import UserError


class Inner(Config):
    whole: int = 1
    on: bool = True


class Section(Config):
    whole: int = Field(1, ge=1)
    number: float | None = None
    named: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    many: tuple[int, ...] = ()
    pair: tuple[str, float] = ("", 0.0)
    by_name: dict[str, float | None] = Field(default_factory=dict)
    inner: Inner = Inner()
    inners: tuple[Inner, ...] = ()
    on: bool = False
    both: bool | int = False
    either: float | bool = 0.5

    @field_validator("whole")
    @classmethod
    def _checked_field(cls, value: int) -> int:
        return value

    @model_validator(mode="after")
    def _checked_section(self) -> Self:
        return self


@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize(
    ("key", "nest"),
    [
        ("whole", lambda value: {"whole": value}),
        ("number", lambda value: {"number": value}),
        ("named", lambda value: {"named": value}),
        ("many[1]", lambda value: {"many": [2, value]}),
        ("pair[1]", lambda value: {"pair": ["a", value]}),
        ("by_name.a", lambda value: {"by_name": {"a": value}}),
        ("inner.whole", lambda value: {"inner": {"whole": value}}),
        ("inners[0].whole", lambda value: {"inners": [{"whole": value}]}),
    ],
)
def test_a_truth_value_is_no_number(key: str, nest: Any, value: bool) -> None:
    with pytest.raises(UserError) as error:
        Section.checked(nest(value))
    kind = "number" if key in ("number", "pair[1]", "by_name.a") else "integer"
    assert error.value.rule.startswith(f"{key} must be a valid {kind}")
    assert error.value.value == ("true" if value else "false") and error.value.fix


def test_it_is_one_where_the_key_takes_both() -> None:
    given = {"on": True, "both": True, "either": False, "inner": {"on": False}, "whole": 2.0, "number": 1}
    found = Section.checked(given).model_dump(exclude_unset=True)
    assert found == given and found["both"] is True and found["either"] is False
    assert Section.model_json_schema()["properties"]["whole"]["minimum"] == 1
