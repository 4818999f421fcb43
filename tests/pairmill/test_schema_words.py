from __future__ import annotations

from typing import Any

import pytest

from pairmill.schema_words import default, row, values

DEFINITIONS = {"Inner": {"type": "object", "properties": {}}, "Colour": {"enum": ["red", "blue"], "type": "string"}}


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "string"}, "text"),
        ({"type": "string", "pattern": "^a"}, "text like `^a`"),
        ({"type": "string", "format": "path"}, "path"),
        ({"type": "boolean"}, "true or false"),
        ({"type": "null"}, "null"),
        ({}, "any"),
        ({"type": "integer", "minimum": 1, "maximum": 9}, "integer ≥ `1` ≤ `9`"),
        ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, "number > `0` < `1`"),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}, {"type": "integer"}]}, "integer or null"),
        ({"enum": ["a", 2, None, True]}, "`a`, `2`, `null`, `true`"),
        ({"const": "auto", "type": "string"}, "`auto`"),
        ({"$ref": "#/$defs/Colour"}, "`red`, `blue`"),
        ({"$ref": "#/$defs/Inner"}, "mapping"),
        ({"type": "array"}, "list"),
        ({"type": "array", "items": {}}, "list"),
        ({"type": "array", "items": {"type": "string"}, "minItems": 2}, "list of text, 2 or more"),
        ({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "null"}]}, "list of 2: integer, null"),
        ({"type": "object"}, "mapping"),
        ({"type": "object", "additionalProperties": True}, "mapping"),
        ({"type": "object", "additionalProperties": {"$ref": "#/$defs/Inner"}}, "mapping of names to mapping"),
    ],
)
def test_what_a_schema_allows(schema: dict[str, Any], words: str) -> None:
    assert values(schema, DEFINITIONS) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [("auto", "`auto`"), ("", '`""`'), (None, "`null`"), (True, "`true`"), ([1, "é"], '`[1, "é"]`'), ({}, "`{}`")],
)
def test_a_default_is_written_as_a_recipe_has_it(value: object, words: str) -> None:
    assert default({"default": value}, required=False) == words
    assert default({}, required=True) == "required"


def test_a_cell_keeps_the_table_in_form() -> None:
    assert row("a|b", "one\n  two", "") == r"| a\|b | one two |  |"
