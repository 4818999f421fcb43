"""The language of expressions as trees of Python's own parser: what is of the language, and what each node says.

Only a closed list of nodes is accepted.  The language itself is described in `where`.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from keyword import iskeyword
from typing import Any, NamedTuple, NoReturn

import pyarrow as pa
import pyarrow.compute as pc

from pairmill.errors import RecipeError, nearest

#: Bounds on the text, so that a hostile expression is refused immediately.
MAX_CHARACTERS = 4_000
MAX_NODES = 1_000
MAX_DEPTH = 40

COMPARE: Mapping[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: pc.equal,
    ast.NotEq: pc.not_equal,
    ast.Lt: pc.less,
    ast.LtE: pc.less_equal,
    ast.Gt: pc.greater,
    ast.GtE: pc.greater_equal,
}
ARITHMETIC: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: pc.add,
    ast.Sub: pc.subtract,
    ast.Mult: pc.multiply,
    ast.Div: pc.divide,
}
TEXT_SEARCH: Mapping[str, Callable[[Any, str], Any]] = {
    "matches": pc.match_substring_regex,
    "contains": pc.match_substring,
    "startswith": pc.starts_with,
}
_FUNCTIONS = ("len", "words", "number", "is_null", "host", "random", *TEXT_SEARCH)
#: Functions over all rows that an expression is about, in the expressions of selections.
POPULATION = ("quantile", "count")
#: The struct that holds the list's own columns.
_INPUT = "input"

_SEE = "see the language in curation/filters/where.py"
_IN_QUOTES = f"a column of the list whose name is no plain word is written {_INPUT}['NAME']"

#: What stands between names: texts, operators, brackets.  A minus without spaces may be part of a name.
_BETWEEN = re.compile(
    r"""('(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|[=!<>]=|[<>()\[\],+*/]|(?<!\S)-(?!\S)|\b(?:and|or|not|in)\b)"""
)
#: A name that Python does not read as one: words, with what people put between them, but no number before a word.
_UNREAD_NAME = re.compile(r"(?!\d+(?:\.\d*)?(?:\s|$))[\w][\w .:#@$%-]*")


class Source(NamedTuple):
    """An expression, and where it stands.

    key: of the recipe, for messages.  population: whether it may call the functions `POPULATION`.
    """

    text: str
    key: str = "filter.where"
    population: bool = False

    @property
    def shorter(self) -> str:
        """What to do about an expression that is too long."""
        return "use filter.callables for long rules" if self.key == "filter.where" else "divide it among selections"


def source_of(text: str | Source) -> Source:
    """An expression as `Source`; a bare text is that of `filter.where`."""
    return text if isinstance(text, Source) else Source(text)


@lru_cache(maxsize=64)
def parse(text: Source) -> tuple[ast.expr, dict[str, ast.expr]]:
    """The checked tree, and each column's name with its first occurrence, sorted by name."""
    if len(text.text) > MAX_CHARACTERS:
        raise RecipeError(
            f"{text.key} must have at most {MAX_CHARACTERS} characters",
            value=f"{len(text.text)} characters",
            fix=text.shorter,
        )
    source = text.text.replace("\n", " ").strip()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # '\d' is an invalid escape in Python and just what a regex needs
            tree = ast.parse(source, mode="eval").body
    except SyntaxError as error:
        corrected = _with_quotes(source)
        fix = f"{_IN_QUOTES}: {corrected}" if corrected else f"{_IN_QUOTES}; {_SEE}"
        _point(text, source, (error.offset or 1) - 1, f"it must be an expression: {error.msg}", fix)
    except (ValueError, RecursionError, MemoryError):
        _point(text, source, 0, "it must not be nested too deeply or hold a null byte", "write it more simply")
    names: dict[str, ast.expr] = {}
    pending, seen = [(tree, 0)], 0
    while pending:
        node, depth = pending.pop()
        seen += 1
        if depth > MAX_DEPTH or seen > MAX_NODES:
            refuse_part(
                text,
                node,
                f"it must have at most {MAX_NODES} terms, {MAX_DEPTH} levels deep",
                text.shorter,
            )
        if (name := name_of(node)) is not None:
            names.setdefault(name, node)
        pending.extend((child, depth + 1) for child in reversed(_operands(text, node)))
    return tree, dict(sorted(names.items()))


def name_of(node: ast.expr) -> str | None:
    """The column that a node names, of the list itself as `input.NAME`; None for another node."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=ast.Name(id="input"), attr=name):
            return f"{_INPUT}.{name}"
        case ast.Subscript(value=ast.Name(id="input"), slice=ast.Constant(value=str(name))):
            return f"{_INPUT}.{name}"
    return None


def _with_quotes(source: str) -> str | None:
    """The expression with every name that Python does not read in quotes; None if it is none then either."""
    parts = _BETWEEN.split(source)
    for at in range(0, len(parts), 2):
        name = parts[at].strip()
        if name and not (name.isidentifier() and not iskeyword(name)) and _UNREAD_NAME.fullmatch(name):
            parts[at] = parts[at].replace(name, _spelled(f"{_INPUT}.{name.removeprefix(f'{_INPUT}.')}"))
    corrected = "".join(parts)
    try:
        ast.parse(corrected, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return corrected


def _dotted(node: ast.expr) -> str | None:
    """`a.b.c` as it is written; None for another node."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=name) if (before := _dotted(value)) is not None:
            return f"{before}.{name}"
    return None


def _spelled(name: str) -> str:
    """How an expression names a column."""
    if name.isidentifier() and not iskeyword(name):
        return name
    own = name.removeprefix(f"{_INPUT}.")
    return f"{_INPUT}[{own!r}]" if not own.isidentifier() or iskeyword(own) else f"{_INPUT}.{own}"


def nearest_columns(name: str, known: Iterable[str]) -> str:
    """Columns that look like `name`, as an expression names them; columns of the list need `input` only if clashing."""
    plain = {column.removeprefix(f"{_INPUT}."): column for column in known}
    close = nearest(name.removeprefix(f"{_INPUT}."), plain)
    return ", ".join(_spelled(plain[column]) for column in close.split(", ") if column in plain)


def _operands(text: Source, node: ast.expr) -> list[ast.expr]:
    """The operands of a node of the language; refuses any other node."""
    match node:
        case ast.Name() | ast.Attribute() | ast.Subscript() if name_of(node) is not None:
            return []
        case ast.Constant():
            literal(text, node)
            return []
        case ast.BoolOp(values=values):
            return values
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.UAdd(), operand=operand):
            return [operand]
        case ast.BinOp(left=left, right=right, op=op) if type(op) in ARITHMETIC:
            return [left, right]
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            operands = [left]
            for compare, right in zip(ops, comparators, strict=True):
                if isinstance(compare, ast.In | ast.NotIn):
                    members(text, right)
                elif type(compare) in COMPARE:
                    operands.append(right)
                else:
                    refuse_part(text, right, "a comparison must not use `is`", "write is_null(x), or ==")
            if any(isinstance(compare, ast.In | ast.NotIn) for compare in ops[:-1]):
                refuse_part(text, node, "`in` must be the last of a chained comparison", "split it with `and`")
            return operands
        case ast.Call(func=ast.Name(id=name)) if name in POPULATION and text.population:
            return _of_population(text, node)
        case ast.Call(func=ast.Name(id="random"), args=[seed], keywords=[]):
            if not isinstance(value := literal(text, seed), int) or isinstance(value, bool):
                refuse_part(text, seed, "the seed of random must be a whole number", "write random(0)")
            return []
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            wanted = 2 if name in TEXT_SEARCH else 1
            if len(args) != wanted:
                refuse_part(text, node, f"{name} must have {wanted} argument(s), not {len(args)}", _SEE)
            if wanted == 2:
                search_text(text, name, args[1])
            return args[:1]
        case ast.Call(func=ast.Name(id=name)) if name in POPULATION:
            refuse_part(
                text,
                node,
                f"{name} must be in the `where` or `weight` of a selection, where all rows are known",
                "make a selection with it in `where`, and choose from that one by `from`",
            )
        case ast.Call(func=ast.Name(id=name)):
            refuse_part(
                text,
                node,
                f"it must call a known function: {name} in this form is none",
                f"use {', '.join((*_FUNCTIONS, *(POPULATION if text.population else ())))}",
            )
        case ast.Attribute() if (dotted := _dotted(node)) is not None:
            quoted = _spelled(f"{_INPUT}.{dotted.removeprefix(f'{_INPUT}.')}")
            refuse_part(text, node, f"a name must hold no dot: {dotted}", f"{_IN_QUOTES}: {quoted}")
        case _:
            kind = type(node.op).__name__ if isinstance(node, ast.BinOp | ast.UnaryOp) else type(node).__name__
            refuse_part(text, node, f"every part must be of the language, and {kind} is not", _SEE)


def _of_population(text: Source, node: ast.Call) -> list[ast.expr]:
    """The operands of a function over all rows."""
    name = ast.unparse(node.func)
    by = [keyword.value for keyword in node.keywords if keyword.arg == "by"]
    wanted = 2 if name == "quantile" else 0
    form = "quantile(x, 0.7) or quantile(x, 0.7, by=column)" if wanted else "count() or count(by=column)"
    if len(node.args) != wanted or len(by) != len(node.keywords) or len(by) > 1:
        refuse_part(text, node, f"{name} must be called as {form}", f"write {form}")
    if wanted:
        share = literal(text, node.args[1])
        if isinstance(share, str | bool) or not 0 <= share <= 1:
            refuse_part(text, node.args[1], "the share of quantile must be a number from 0 to 1", f"write {form}")
    operands = [*node.args[:1], *by]
    for inner in (inner for operand in operands for inner in ast.walk(operand)):
        if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Name) and inner.func.id in POPULATION:
            refuse_part(text, node, f"{name} must not hold another function over all rows", "use two selections")
    return operands


def literal(text: Source, node: ast.expr) -> str | int | float | bool:
    match node:
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)) if value is not True:
            if isinstance(value, int) and value > 2**63:
                refuse_part(text, node, "a whole number must be -2**63 or more", "write it as -1e20")
            return -value
        case ast.Constant(value=str() | bool() | float() as value):
            return value
        case ast.Constant(value=int() as value):
            if value >= 2**63:
                refuse_part(text, node, "a whole number must be below 2**63", "write it as 1e20")
            return value
        case ast.Constant(value=None):
            refuse_part(text, node, "a literal must not be None", "write is_null(x)")
    refuse_part(text, node, "this must be a literal text, number, True or False", _SEE)


def members(text: Source, node: ast.expr) -> list[str | int | float | bool]:
    if isinstance(node, ast.Tuple | ast.List | ast.Set) and len(node.elts) <= MAX_NODES:
        return [literal(text, element) for element in node.elts]
    refuse_part(
        text,
        node,
        "`in` must be followed by literals in parentheses",
        "write x in ('en', 'zh'), or contains(x, 'part')",
    )


def search_text(text: Source, name: str, node: ast.expr) -> str:
    value = literal(text, node)
    if not isinstance(value, str):
        refuse_part(text, node, f"the second argument of {name} must be a literal text", "put it in quotes")
    if name == "matches":
        try:
            pc.match_substring_regex(pa.scalar(""), value)
        except pa.ArrowInvalid as error:
            refuse_part(
                text,
                node,
                f"this must be an RE2 regular expression ({error})",
                "write it without look-around and back-references",
            )
    return value


def refuse_part(text: Source, node: ast.expr, problem: str, fix: str) -> NoReturn:
    source = text.text.replace("\n", " ").strip()
    # The parser counts bytes of UTF-8.
    at = len(source.encode()[: node.col_offset].decode(errors="ignore"))
    _point(text, source, at, problem, fix)


def _point(text: Source, source: str, at: int, problem: str, fix: str) -> NoReturn:
    """Raise RecipeError with a window of the expression and a caret under the character `at`."""
    start = max(0, at - 60)
    window = source[start : at + 40]
    raise RecipeError(
        f"{text.key}, column {at + 1}: {problem}", value=f"{window}\n       {' ' * (at - start)}^", fix=fix
    )
