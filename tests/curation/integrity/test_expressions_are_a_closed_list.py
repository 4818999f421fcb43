"""An expression of the recipe does what the closed list of its parts does, and nothing else is ever evaluated."""

from __future__ import annotations

import ast

import pyarrow as pa
import pytest

from curation.filters.where import _Evaluation
from pairmill.errors import IntegrityError

ROWS = pa.table({"width": [1, 2], "alt": ["a", "b"]})


@pytest.mark.parametrize(
    "text", ["[w for w in alt]", "alt.upper", "(lambda: width)()", "width if alt else 1", "{1: 2}"]
)
def test_a_part_that_parsing_should_have_refused_is_not_evaluated(text: str) -> None:
    with pytest.raises(IntegrityError, match="must be refused when it is read"):
        _Evaluation(text, ROWS).value(ast.parse(text, mode="eval").body)


def test_the_parts_of_the_list_are() -> None:
    found = _Evaluation("width > 1", ROWS).value(ast.parse("width > 1", mode="eval").body)
    assert found.to_pylist() == [False, True]
