"""Expressions over columns, such as `width >= 256 and language == 'en'`, parsed and never executed as Python.

reads: the columns that the expression names
adds:  —
drops: where

    names           columns; input.width is the list's own column where the run has one of that name, and input['NAME']
                    one of any name: input['aesthetic score'], input['clip-b32'], input['1st'], input['class']
    literals        'text', 12, 1.5, True, False
    comparisons     == != < <= > >=, chained as in 0.5 < aspect <= 2; x in ('en', 'zh'), x not in (...)
    logic           and, or, not
    arithmetic      + - * / in double precision; a division by zero is null
    functions       len(x)                characters of a text
                    number(x)             the number that a text spells, as in csv lists; null for other texts
                    matches(x, 'regex')   the RE2 expression is found in the text
                    contains(x, 'part'), startswith(x, 'start')
                    is_null(x)

A null in a column makes every result from it null, except that, as in SQL, `null or True` is true and
`null and False` is false.  A row for which the whole expression is null is dropped.

Python's own parser reads the text.  Only a closed list of its nodes is accepted, and each becomes one pyarrow.compute
call on whole columns.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator

from curation.filters.syntax import (
    ARITHMETIC,
    COMPARE,
    TEXT_SEARCH,
    literal,
    members,
    name_of,
    nearest_columns,
    parse,
    refuse_part,
    search_text,
)
from pairmill.config import Config
from pairmill.errors import IntegrityError

#: A text that spells a number.
_NUMBER = r"^\s*[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?\s*$"


class WhereConfig(Config):
    """The user's expression."""

    where: str | None = Field(
        None,
        description="expression over columns that is true for rows to keep, e.g. width >= 256 and language == 'en'; "
        "input['aesthetic score'] is a column of the list by any name, number(score) the number that a text spells, as "
        "in csv lists; rows for which it is null are dropped; see curation/filters/where.py; null: off",
    )

    @field_validator("where")
    @classmethod
    def _parses(cls, value: str | None) -> str | None:
        if value is not None:
            parse(value)
        return value


def columns_of(text: str) -> list[str]:
    """Names of the columns that the expression reads, sorted.  Raises RecipeError as `compile_where` does."""
    return list(parse(text)[1])


def compile_where(text: str, columns: pa.Schema | Iterable[str]) -> Callable[[pa.Table], pa.ChunkedArray]:
    """A function from a table to a boolean column of its rows: true, false, or null.

    columns: the table's schema, or only the names of its columns; with a schema, types are checked here too.
    Raises RecipeError, with the place in the text, for syntax outside the language and for an unknown column; the
    function it returns raises RecipeError where an operation does not fit a column's type.
    """
    tree, names = parse(text)
    schema = columns if isinstance(columns, pa.Schema) else None
    known = schema.names if schema is not None else list(columns)
    for name, node in names.items():
        if name not in known:
            refuse_part(
                text,
                node,
                f"every name must be a column: there is no column {name}",
                f"perhaps you mean: {nearest_columns(name, known)}",
            )

    def evaluate(rows: pa.Table) -> pa.ChunkedArray:
        answer = _Evaluation(text, rows).logic(tree)
        if isinstance(answer, pa.Scalar):
            answer = pa.chunked_array([pa.repeat(answer, len(rows))], pa.bool_())
        return answer

    if schema is not None:
        evaluate(schema.empty_table())
    return evaluate


class _Evaluation:
    """One walk over the tree for one table; each method returns a column, or a scalar where no column is involved."""

    def __init__(self, text: str, rows: pa.Table) -> None:
        self._text = text
        self._rows = rows

    def logic(self, node: ast.expr) -> Any:
        """`node` where a truth value is needed."""
        found = self.value(node)
        if not pa.types.is_boolean(found.type):
            refuse_part(self._text, node, f"this must be true or false, and is {found.type}", "compare it, e.g. x > 0")
        return found

    def number(self, node: ast.expr) -> Any:
        """`node` in double precision."""
        found = self.value(node)
        if not (pa.types.is_integer(found.type) or pa.types.is_floating(found.type)):
            refuse_part(
                self._text,
                node,
                f"this must be a number, and is {found.type}",
                "use number(x) for the number that a text spells",
            )
        return pc.cast(found, pa.float64(), safe=False)

    def string(self, node: ast.expr) -> Any:
        """`node` where a text is needed."""
        found = self.value(node)
        if not (pa.types.is_string(found.type) or pa.types.is_large_string(found.type)):
            refuse_part(self._text, node, f"this must be a text, and is {found.type}", "name a text column")
        return found

    def value(self, node: ast.expr) -> Any:
        """`node`, whatever its type."""
        match node:
            case ast.Name() | ast.Attribute() | ast.Subscript() if (name := name_of(node)) is not None:
                return _simple(self._rows[name])
            case ast.Constant():
                return pa.scalar(literal(self._text, node))
            case ast.BoolOp(op=op, values=values):
                join = pc.and_kleene if isinstance(op, ast.And) else pc.or_kleene
                found = self.logic(values[0])
                for value in values[1:]:
                    found = join(found, self.logic(value))
                return found
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return pc.invert(self.logic(operand))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return pc.negate(self.number(operand))
            case ast.UnaryOp(operand=operand):
                return self.number(operand)
            case ast.BinOp(left=left, op=op, right=right):
                divisor = self.number(right)
                if isinstance(op, ast.Div):
                    divisor = pc.if_else(pc.equal(divisor, 0.0), pa.scalar(None, pa.float64()), divisor)
                return ARITHMETIC[type(op)](self.number(left), divisor)
            case ast.Compare():
                return self._compare(node)
            case ast.Call(func=ast.Name(id="len"), args=[argument]):
                return pc.utf8_length(self.string(argument))
            case ast.Call(func=ast.Name(id="number"), args=[argument]):
                return self._spelled_number(argument)
            case ast.Call(func=ast.Name(id="is_null"), args=[argument]):
                return pc.is_null(self.value(argument))
            case ast.Call(func=ast.Name(id=name), args=[argument, sought]):
                return TEXT_SEARCH[name](self.string(argument), search_text(self._text, name, sought))
        raise IntegrityError(f"filter.where must be refused when it is read, if it holds a {type(node).__name__}")

    def _spelled_number(self, node: ast.expr) -> Any:
        found = self.value(node)
        if not (pa.types.is_string(found.type) or pa.types.is_large_string(found.type)):
            return self.number(node)
        spelled = pc.match_substring_regex(found, _NUMBER)
        return pc.cast(pc.utf8_trim_whitespace(pc.if_else(spelled, found, None)), pa.float64())

    def _compare(self, node: ast.Compare) -> Any:
        found = None
        left = self.value(node.left)
        for op, right_node in zip(node.ops, node.comparators, strict=True):
            if isinstance(op, ast.In | ast.NotIn):
                right, one = None, self._member(node, left, members(self._text, right_node))
                one = pc.invert(one) if isinstance(op, ast.NotIn) else one
            else:
                right = self.value(right_node)
                one = self._pair(right_node, COMPARE[type(op)], left, right)
            found = one if found is None else pc.and_kleene(found, one)
            left = right
        return found

    def _member(self, node: ast.expr, left: Any, members: list[str | int | float | bool]) -> Any:
        found = pc.if_else(pc.is_valid(left), False, pa.scalar(None, pa.bool_()))
        for member in members:
            found = pc.or_kleene(found, self._pair(node, pc.equal, left, pa.scalar(member)))
        return found

    def _pair(self, node: ast.expr, compare: Callable[[Any, Any], Any], left: Any, right: Any) -> Any:
        # A column without any value compares with everything, and gives nothing.
        if pa.types.is_null(left.type) and not pa.types.is_null(right.type):
            left = pc.cast(left, right.type)
        elif pa.types.is_null(right.type) and not pa.types.is_null(left.type):
            right = pc.cast(right, left.type)
        kinds = {_kind(left.type), _kind(right.type)}
        if len(kinds) > 1 or kinds == {"other"}:
            refuse_part(
                self._text,
                node,
                f"both sides must be of one kind: {left.type}, {right.type}",
                "compare like with like; number(x) is the number that a text spells"
                if kinds == {"number", "text"}
                else "compare like with like",
            )
        if pa.types.is_integer(left.type) != pa.types.is_integer(right.type) and kinds == {"number"}:
            # Arrow's own promotion raises for a whole number that a double cannot hold exactly.
            left, right = (pc.cast(side, pa.float64(), safe=False) for side in (left, right))
        elif pa.types.is_uint64(left.type) != pa.types.is_uint64(right.type):
            # No type of whole numbers holds both.
            left, right = (pc.cast(side, _WHOLE) for side in (left, right))
        return compare(left, right)


#: Holds every signed and unsigned whole number of 64 bits.
_WHOLE = pa.decimal128(20, 0)


def _simple(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column in the type that comparisons have: values instead of dictionaries, texts instead of views of texts.

    Decimals, which DuckDB writes for `0.25`, are floating-point numbers.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _simple(column.cast(kind.value_type))
    if pa.types.is_string_view(kind):
        return column.cast(pa.string())
    return pc.cast(column, pa.float64(), safe=False) if pa.types.is_decimal(kind) else column


def _kind(type_: pa.DataType) -> str:
    if pa.types.is_integer(type_) or pa.types.is_floating(type_):
        return "number"
    if pa.types.is_string(type_) or pa.types.is_large_string(type_):
        return "text"
    return "truth value" if pa.types.is_boolean(type_) else "other"
