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
                    words(x)              words of a text: what stands between spaces, in any script
                    number(x)             the number that a text spells, as in csv lists; null for other texts
                    matches(x, 'regex')   the RE2 expression is found in the text
                    contains(x, 'part'), startswith(x, 'start')
                    is_null(x)
                    host(x)             the host of a URL, in lower case; '' if it has none
                    random(0)           a number from 0 to 1 that follows from the row's uid and a seed

In a selection (`curation.selections`) there are functions over all rows of its `from`, those that `uids` leaves, too:

                    quantile(x, q)      the inverted CDF: the least value of x that at least the share q of the values
                                        do not exceed, q as it is written (numpy's method="inverted_cdf", but exact), so
                                        always a value of x; null and NaN do not count
                    quantile(x, q, by=y)  the same among the rows with the row's own value of y
                    count(), count(by=y)  how many rows there are, or have the row's own value of y; null is a value

A null in a column makes every result from it null, except that, as in SQL, `null or True` is true and
`null and False` is false.  A row for which the whole expression is null is dropped.

Python's own parser reads the text.  Only a closed list of its nodes is accepted, and each becomes one pyarrow.compute
call on whole columns.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator

from curation.filters.syntax import (
    ARITHMETIC,
    COMPARE,
    POPULATION,
    TEXT_SEARCH,
    Source,
    literal,
    members,
    name_of,
    nearest_columns,
    parse,
    refuse_part,
    search_text,
    source_of,
)
from curation.identity import shuffle_key, url_host
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
            parse(Source(value))
        return value


#: What a function over all rows (`syntax.POPULATION`) is for each row of a table.
#: (the node, the table's values of `by` or None) -> a column, or a scalar.
Population = Callable[[ast.Call, Any], Any]


def columns_of(text: str | Source) -> list[str]:
    """Names of the columns that the expression reads, sorted.  Raises RecipeError as `compile_where` does.

    `random` reads the column uid.
    """
    tree, names = parse(source_of(text))
    drawn = any(isinstance(node, ast.Call) and ast.unparse(node.func) == "random" for node in ast.walk(tree))
    return sorted({*names, "uid"} if drawn else names)


def population_calls(text: Source) -> dict[str, ast.Call]:
    """The calls of functions over all rows in an expression, by their own text."""
    tree = parse(text)[0]
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) in POPULATION]
    return {ast.unparse(node): node for node in calls}


def indifferent_up_to(text: Source, called: str) -> float:
    """The largest count up to which every count from 1 means the same where an expression calls `count`; 0: none.

    called: the call, as `population_calls` names it.  It is known where each call is compared with numbers alone: to
    `count(by=x) <= 1000` all counts from 1 to 1000 are alike, to `count(by=x) < 1000` those from 1 to 999.
    """
    tree = parse(text)[0]
    calls = {id(node) for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node) == called}
    compared: dict[int, float] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            for at, side in enumerate(sides):
                if id(side) in calls:
                    found = [_alike(node.ops[at - 1], sides[at - 1], mirrored=True)] if at else []
                    found += [_alike(node.ops[at], sides[at + 1])] if at + 1 < len(sides) else []
                    compared[id(side)] = min(found)
    return max(0.0, min(compared.values())) if compared.keys() == calls and calls else 0.0


def _alike(sign: ast.cmpop, other: ast.expr, *, mirrored: bool = False) -> float:
    """The largest count up to which all compare alike with a number; 0 for what is no number."""
    number = other.value if isinstance(other, ast.Constant) else None
    if isinstance(number, bool) or not isinstance(number, int | float):
        return 0.0
    number = min(max(number, 0), 1 << 62)  # infinity is beyond any count
    # A count of the number itself is alike with those below it for <= and >, and with those above for < and >=.
    with_those_below = (ast.GtE, ast.Lt) if mirrored else (ast.LtE, ast.Gt)
    return float(math.floor(number) if isinstance(sign, with_those_below) else math.ceil(number) - 1)


def compile_where(text: str | Source, columns: pa.Schema | Iterable[str]) -> Callable[..., pa.ChunkedArray]:
    """A function from a table to a boolean column of its rows: true, false, or null.

    Its second argument is a `Population`; None: functions over all rows are null.
    columns: the table's schema, or only the names of its columns; with a schema, types are checked here too.
    Raises RecipeError, with the place in the text, for syntax outside the language and for an unknown column; the
    function it returns raises RecipeError where an operation does not fit a column's type.
    """
    return _compiled(source_of(text), columns, _Evaluation.logic, pa.bool_())


def compile_number(text: Source, columns: pa.Schema | Iterable[str]) -> Callable[..., pa.ChunkedArray]:
    """As `compile_where`, for an expression whose value is a number: to a float64 column."""
    return _compiled(text, columns, _Evaluation.number, pa.float64())


def compile_group(text: Source, columns: pa.Schema | Iterable[str]) -> Callable[..., pa.ChunkedArray]:
    """As `compile_where`, for an expression whose values divide rows into groups: to a column of texts."""
    return _compiled(text, columns, _Evaluation.group, pa.string())


def compile_operands(text: Source, call: ast.Call) -> Callable[[pa.Table], tuple[Any, Any]]:
    """A function from a table to the operands of one of `population_calls`: x (float64) and `by` (texts).

    None for an operand that the call does not have.
    """
    by = next((keyword.value for keyword in call.keywords), None)

    def operands(rows: pa.Table) -> tuple[Any, Any]:
        one = _Evaluation(text, rows)
        number = _column(one.number(call.args[0]), rows, pa.float64()) if call.args else None
        return number, None if by is None else _column(one.group(by), rows, pa.string())

    return operands


def _compiled(
    text: Source,
    columns: pa.Schema | Iterable[str],
    kind: Callable[[_Evaluation, ast.expr], Any],
    made: pa.DataType,
) -> Callable[..., pa.ChunkedArray]:
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

    def evaluate(rows: pa.Table, population: Population | None = None) -> pa.ChunkedArray:
        return _column(kind(_Evaluation(text, rows, population), tree), rows, made)

    if schema is not None:
        empty = schema.empty_table()
        evaluate(empty if "uid" in schema.names else empty.append_column("uid", pa.array([], pa.string())))
    return evaluate


def _column(found: Any, rows: pa.Table, made: pa.DataType) -> pa.ChunkedArray:
    """What was found as a column of the rows: a scalar is that of every row."""
    if isinstance(found, pa.Scalar):
        return pa.chunked_array([pa.repeat(found.cast(made), len(rows))], made)
    return found if isinstance(found, pa.ChunkedArray) else pa.chunked_array([found], made)


class _Evaluation:
    """One walk over the tree for one table; each method returns a column, or a scalar where no column is involved."""

    def __init__(self, text: str | Source, rows: pa.Table, population: Population | None = None) -> None:
        self._text = source_of(text)
        self._rows = rows
        self._population = population

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

    def group(self, node: ast.expr) -> Any:
        """`node` as texts, equal for equal values; null stays null."""
        found = self.value(node)
        if _kind(found.type) == "other" and not pa.types.is_null(found.type):
            refuse_part(
                self._text, node, f"this must be a text, a number or a truth value, and is {found.type}", "name another"
            )
        if pa.types.is_floating(found.type):
            found = pc.if_else(pc.equal(found, pa.scalar(0, found.type)), pa.scalar(0, found.type), found)  # -0.0 too
        return pc.cast(found, pa.string())

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
            case ast.Call(func=ast.Name(id="words"), args=[argument]):
                return _words(self.string(argument))
            case ast.Call(func=ast.Name(id="number"), args=[argument]):
                return self._spelled_number(argument)
            case ast.Call(func=ast.Name(id="is_null"), args=[argument]):
                return pc.is_null(self.value(argument))
            case ast.Call(func=ast.Name(id="host"), args=[argument]):
                return _mapped(self.string(argument), url_host, pa.string())
            case ast.Call(func=ast.Name(id="random"), args=[seed]):
                number = int(literal(self._text, seed))
                return _mapped(self._rows["uid"], lambda uid: shuffle_key(uid, number) / 2.0**64, pa.float64())
            case ast.Call(func=ast.Name(id=name)) if name in POPULATION and self._text.population:
                return self._of_all(node)
            case ast.Call(func=ast.Name(id=name), args=[argument, sought]) if name in TEXT_SEARCH:
                return TEXT_SEARCH[name](self.string(argument), search_text(self._text, name, sought))
        raise IntegrityError(f"{self._text.key} must be refused when it is read, if it holds a {type(node).__name__}")

    def _of_all(self, node: ast.Call) -> Any:
        for argument in node.args[:1]:
            self.number(argument)
        by = self.group(node.keywords[0].value) if node.keywords else None
        return pa.scalar(None, pa.float64()) if self._population is None else self._population(node, by)

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


def _mapped(values: Any, of_one: Callable[[str], Any], made: pa.DataType) -> Any:
    """A Python function of each text; null stays null."""
    if isinstance(values, pa.Scalar):
        return pa.scalar(None if values.as_py() is None else of_one(values.as_py()), made)
    return pa.chunked_array([pa.array([None if v is None else of_one(v) for v in values.to_pylist()], made)])


#: Holds every signed and unsigned whole number of 64 bits.
_WHOLE = pa.decimal128(20, 0)


def _simple(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column in the type that comparisons have: values instead of dictionaries, texts instead of views of texts.

    Decimals, which DuckDB writes for `0.25`, are floating-point numbers; those of half precision, which Arrow compares
    with nothing, are of single precision.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _simple(column.cast(kind.value_type))
    if pa.types.is_string_view(kind):
        return column.cast(pa.string())
    if pa.types.is_float16(kind):
        return column.cast(pa.float32())
    return pc.cast(column, pa.float64(), safe=False) if pa.types.is_decimal(kind) else column


def _kind(type_: pa.DataType) -> str:
    if pa.types.is_integer(type_) or pa.types.is_floating(type_):
        return "number"
    if pa.types.is_string(type_) or pa.types.is_large_string(type_):
        return "text"
    return "truth value" if pa.types.is_boolean(type_) else "other"


def _words(texts: Any) -> Any:
    """How many words `str.split` finds in each text (int64): published rules count them so."""

    def words(text: str | None) -> int | None:
        return None if text is None else len(text.split())

    if isinstance(texts, pa.Scalar):
        return pa.scalar(words(texts.as_py()), pa.int64())
    return pa.chunked_array([pa.array(map(words, texts.to_pylist()), pa.int64())])
