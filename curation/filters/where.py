"""Expressions over columns, such as `width >= 256 and language == 'en'`, parsed and never executed as Python.

reads: the columns that the expression names
adds:  —
drops: where

    names           columns
    literals        'text', 12, 1.5, True, False
    comparisons     == != < <= > >=, chained as in 0.5 < aspect <= 2; x in ('en', 'zh'), x not in (...)
    logic           and, or, not
    arithmetic      + - * / in double precision; a division by zero is null
    functions       len(x)                characters of a text
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
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator

from pairmill.config import Config
from pairmill.errors import IntegrityError, RecipeError, nearest

#: Bounds on the text, so that a hostile expression is refused immediately.
MAX_CHARACTERS = 4_000
MAX_NODES = 1_000
MAX_DEPTH = 40

_COMPARE: Mapping[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: pc.equal,
    ast.NotEq: pc.not_equal,
    ast.Lt: pc.less,
    ast.LtE: pc.less_equal,
    ast.Gt: pc.greater,
    ast.GtE: pc.greater_equal,
}
_ARITHMETIC: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: pc.add,
    ast.Sub: pc.subtract,
    ast.Mult: pc.multiply,
    ast.Div: pc.divide,
}
_TEXT_SEARCH: Mapping[str, Callable[[Any, str], Any]] = {
    "matches": pc.match_substring_regex,
    "contains": pc.match_substring,
    "startswith": pc.starts_with,
}
_FUNCTIONS = ("len", "is_null", *_TEXT_SEARCH)

_SEE = "see the language in curation/filters/where.py"


class WhereConfig(Config):
    """The user's expression."""

    where: str | None = Field(
        None,
        description="expression over columns that is true for rows to keep, e.g. width >= 256 and language == 'en'; "
        "rows for which it is null are dropped; see curation/filters/where.py; null: off",
    )

    @field_validator("where")
    @classmethod
    def _parses(cls, value: str | None) -> str | None:
        if value is not None:
            _parse(value)
        return value


def columns_of(text: str) -> list[str]:
    """Names of the columns that the expression reads, sorted.  Raises RecipeError as `compile_where` does."""
    return list(_parse(text)[1])


def compile_where(text: str, columns: pa.Schema | Iterable[str]) -> Callable[[pa.Table], pa.ChunkedArray]:
    """A function from a table to a boolean column of its rows: true, false, or null.

    columns: the table's schema, or only the names of its columns; with a schema, types are checked here too.
    Raises RecipeError, with the place in the text, for syntax outside the language and for an unknown column; the
    function it returns raises RecipeError where an operation does not fit a column's type.
    """
    tree, names = _parse(text)
    schema = columns if isinstance(columns, pa.Schema) else None
    known = schema.names if schema is not None else list(columns)
    for name, node in names.items():
        if name not in known:
            _refuse(
                text,
                node,
                f"every name must be a column: there is no column {name}",
                f"perhaps you mean: {nearest(name, known)}",
            )

    def evaluate(rows: pa.Table) -> pa.ChunkedArray:
        answer = _Evaluation(text, rows).logic(tree)
        if isinstance(answer, pa.Scalar):
            answer = pa.chunked_array([pa.repeat(answer, len(rows))], pa.bool_())
        return answer

    if schema is not None:
        evaluate(schema.empty_table())
    return evaluate


@lru_cache(maxsize=64)
def _parse(text: str) -> tuple[ast.expr, dict[str, ast.Name]]:
    """The checked tree, and each column's name with its first occurrence, sorted by name."""
    if len(text) > MAX_CHARACTERS:
        raise RecipeError(
            f"filter.where must have at most {MAX_CHARACTERS} characters",
            value=f"{len(text)} characters",
            fix="use filter.callables for long rules",
        )
    source = text.replace("\n", " ").strip()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # '\d' is an invalid escape in Python and just what a regex needs
            tree = ast.parse(source, mode="eval").body
    except SyntaxError as error:
        _point(text, source, (error.offset or 1) - 1, f"it must be an expression: {error.msg}", _SEE)
    except (ValueError, RecursionError, MemoryError):
        _point(text, source, 0, "it must not be nested too deeply or hold a null byte", "write it more simply")
    names: dict[str, ast.Name] = {}
    pending, seen = [(tree, 0)], 0
    while pending:
        node, depth = pending.pop()
        seen += 1
        if depth > MAX_DEPTH or seen > MAX_NODES:
            _refuse(
                text,
                node,
                f"it must have at most {MAX_NODES} terms, {MAX_DEPTH} levels deep",
                "use filter.callables for long rules",
            )
        if isinstance(node, ast.Name):
            names.setdefault(node.id, node)
        pending.extend((child, depth + 1) for child in reversed(_operands(text, node)))
    return tree, dict(sorted(names.items()))


def _operands(text: str, node: ast.expr) -> list[ast.expr]:
    """The operands of a node of the language; refuses any other node."""
    match node:
        case ast.Name():
            return []
        case ast.Constant():
            _literal(text, node)
            return []
        case ast.BoolOp(values=values):
            return values
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.UAdd(), operand=operand):
            return [operand]
        case ast.BinOp(left=left, right=right, op=op) if type(op) in _ARITHMETIC:
            return [left, right]
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            operands = [left]
            for compare, right in zip(ops, comparators, strict=True):
                if isinstance(compare, ast.In | ast.NotIn):
                    _members(text, right)
                elif type(compare) in _COMPARE:
                    operands.append(right)
                else:
                    _refuse(text, right, "a comparison must not use `is`", "write is_null(x), or ==")
            if any(isinstance(compare, ast.In | ast.NotIn) for compare in ops[:-1]):
                _refuse(text, node, "`in` must be the last of a chained comparison", "split it with `and`")
            return operands
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            wanted = 2 if name in _TEXT_SEARCH else 1
            if len(args) != wanted:
                _refuse(text, node, f"{name} must have {wanted} argument(s), not {len(args)}", _SEE)
            if wanted == 2:
                _search_text(text, name, args[1])
            return args[:1]
        case ast.Call(func=ast.Name(id=name)):
            _refuse(
                text,
                node,
                f"it must call a known function: {name} in this form is none",
                f"use {', '.join(_FUNCTIONS)}",
            )
        case _:
            kind = type(node.op).__name__ if isinstance(node, ast.BinOp | ast.UnaryOp) else type(node).__name__
            _refuse(text, node, f"every part must be of the language, and {kind} is not", _SEE)


def _literal(text: str, node: ast.expr) -> str | int | float | bool:
    match node:
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)) if value is not True:
            return -value
        case ast.Constant(value=str() | bool() | float() as value):
            return value
        case ast.Constant(value=int() as value):
            if value >= 2**63:
                _refuse(text, node, "a whole number must be below 2**63", "write it as 1e20")
            return value
        case ast.Constant(value=None):
            _refuse(text, node, "a literal must not be None", "write is_null(x)")
    _refuse(text, node, "this must be a literal text, number, True or False", _SEE)


def _members(text: str, node: ast.expr) -> list[str | int | float | bool]:
    if isinstance(node, ast.Tuple | ast.List | ast.Set) and len(node.elts) <= MAX_NODES:
        return [_literal(text, element) for element in node.elts]
    _refuse(
        text,
        node,
        "`in` must be followed by literals in parentheses",
        "write x in ('en', 'zh'), or contains(x, 'part')",
    )


def _search_text(text: str, name: str, node: ast.expr) -> str:
    value = _literal(text, node)
    if not isinstance(value, str):
        _refuse(text, node, f"the second argument of {name} must be a literal text", "put it in quotes")
    if name == "matches":
        try:
            pc.match_substring_regex(pa.scalar(""), value)
        except pa.ArrowInvalid as error:
            _refuse(
                text,
                node,
                f"this must be an RE2 regular expression ({error})",
                "write it without look-around and back-references",
            )
    return value


class _Evaluation:
    """One walk over the tree for one table; each method returns a column, or a scalar where no column is involved."""

    def __init__(self, text: str, rows: pa.Table) -> None:
        self._text = text
        self._rows = rows

    def logic(self, node: ast.expr) -> Any:
        """`node` where a truth value is needed."""
        found = self.value(node)
        if not pa.types.is_boolean(found.type):
            _refuse(self._text, node, f"this must be true or false, and is {found.type}", "compare it, e.g. x > 0")
        return found

    def number(self, node: ast.expr) -> Any:
        """`node` in double precision."""
        found = self.value(node)
        if not (pa.types.is_integer(found.type) or pa.types.is_floating(found.type)):
            _refuse(self._text, node, f"this must be a number, and is {found.type}", "use len(x) for a text's length")
        return pc.cast(found, pa.float64(), safe=False)

    def string(self, node: ast.expr) -> Any:
        """`node` where a text is needed."""
        found = self.value(node)
        if not (pa.types.is_string(found.type) or pa.types.is_large_string(found.type)):
            _refuse(self._text, node, f"this must be a text, and is {found.type}", "name a text column")
        return found

    def value(self, node: ast.expr) -> Any:
        """`node`, whatever its type."""
        match node:
            case ast.Name(id=name):
                column = self._rows[name]
                return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
            case ast.Constant():
                return pa.scalar(_literal(self._text, node))
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
                return _ARITHMETIC[type(op)](self.number(left), divisor)
            case ast.Compare():
                return self._compare(node)
            case ast.Call(func=ast.Name(id="len"), args=[argument]):
                return pc.utf8_length(self.string(argument))
            case ast.Call(func=ast.Name(id="is_null"), args=[argument]):
                return pc.is_null(self.value(argument))
            case ast.Call(func=ast.Name(id=name), args=[argument, sought]):
                return _TEXT_SEARCH[name](self.string(argument), _search_text(self._text, name, sought))
        raise IntegrityError(f"filter.where must be refused when it is read, if it holds a {type(node).__name__}")

    def _compare(self, node: ast.Compare) -> Any:
        found = None
        left = self.value(node.left)
        for op, right_node in zip(node.ops, node.comparators, strict=True):
            if isinstance(op, ast.In | ast.NotIn):
                right, one = None, self._member(node, left, _members(self._text, right_node))
                one = pc.invert(one) if isinstance(op, ast.NotIn) else one
            else:
                right = self.value(right_node)
                one = self._pair(right_node, _COMPARE[type(op)], left, right)
            found = one if found is None else pc.and_kleene(found, one)
            left = right
        return found

    def _member(self, node: ast.expr, left: Any, members: list[str | int | float | bool]) -> Any:
        found = pc.if_else(pc.is_valid(left), False, pa.scalar(None, pa.bool_()))
        for member in members:
            found = pc.or_kleene(found, self._pair(node, pc.equal, left, pa.scalar(member)))
        return found

    def _pair(self, node: ast.expr, compare: Callable[[Any, Any], Any], left: Any, right: Any) -> Any:
        kinds = {_kind(left.type), _kind(right.type)}
        if len(kinds) > 1 or kinds == {"other"}:
            _refuse(
                self._text,
                node,
                f"both sides must be of one kind: {left.type}, {right.type}",
                "compare like with like",
            )
        if pa.types.is_integer(left.type) != pa.types.is_integer(right.type) and kinds == {"number"}:
            # Arrow's own promotion raises for a whole number that a double cannot hold exactly.
            left, right = (pc.cast(side, pa.float64(), safe=False) for side in (left, right))
        return compare(left, right)


def _kind(type_: pa.DataType) -> str:
    if pa.types.is_integer(type_) or pa.types.is_floating(type_):
        return "number"
    if pa.types.is_string(type_) or pa.types.is_large_string(type_):
        return "text"
    return "truth value" if pa.types.is_boolean(type_) else "other"


def _refuse(text: str, node: ast.expr, problem: str, fix: str) -> NoReturn:
    source = text.replace("\n", " ").strip()
    # The parser counts bytes of UTF-8.
    at = len(source.encode()[: node.col_offset].decode(errors="ignore"))
    _point(text, source, at, problem, fix)


def _point(text: str, source: str, at: int, problem: str, fix: str) -> NoReturn:
    """Raise RecipeError with a window of the expression and a caret under the character `at`."""
    start = max(0, at - 60)
    window = source[start : at + 40]
    raise RecipeError(
        f"filter.where, column {at + 1}: {problem}", value=f"{window}\n       {' ' * (at - start)}^", fix=fix
    )
