"""Expressions over the names of selections: `good | (trusted & ~nsfw)`.

names       of selections: letters, digits, _ and -
signs       | or, & and, ~ not; the words or, and, not mean the same
order       not before and before or, whichever way they are written; parentheses
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from pairmill.errors import RecipeError

Mask = npt.NDArray[np.bool_]

#: How a selection may be called; some names mean something else.
NAME = r"[A-Za-z0-9_-]+"
WORDS = ("and", "or", "not")

#: The selection of every row that no stage dropped.
ALL = "all"

_SIGNS = {"and": "&", "or": "|", "not": "~"}
_TOKEN = re.compile(rf"\s*({NAME}|[|&~()])")
_DEEPEST = 50
_LONGEST = 10_000


@dataclass(frozen=True)
class Name:
    """The rows of one selection."""

    name: str


@dataclass(frozen=True)
class Not:
    """The rows that are not in it."""

    inner: Node


@dataclass(frozen=True)
class And:
    """The rows that are in all of them."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Or:
    """The rows that are in any of them."""

    parts: tuple[Node, ...]


Node = Name | Not | And | Or


def parse_names(text: str, key: str) -> Node:
    """The tree of an expression.  key: of the recipe, for messages.  Raises RecipeError with the place in the text."""
    return _Parser(text, key).whole()


def names_of(tree: Node) -> list[str]:
    """The names in an expression, each once, in its order."""
    return list(dict.fromkeys(_names(tree)))


def evaluate(tree: Node, masks: Mapping[str, Mask]) -> Mask:
    """The rows of an expression.  masks: of each of its names, [rows]."""
    match tree:
        case Name(name):
            return masks[name]
        case Not(inner):
            return ~evaluate(inner, masks)
        case And(parts):
            return reduce(np.logical_and, (evaluate(part, masks) for part in parts))
        case Or(parts):
            return reduce(np.logical_or, (evaluate(part, masks) for part in parts))


def _names(tree: Node) -> Iterator[str]:
    match tree:
        case Name(name):
            yield name
        case Not(inner):
            yield from _names(inner)
        case And(parts) | Or(parts):
            for part in parts:
                yield from _names(part)


class _Parser:
    """Recursive descent; one method for each level of precedence."""

    def __init__(self, text: str, key: str) -> None:
        self._text, self._key = text, key
        if len(text) > _LONGEST:
            self._refuse(0, f"it must have at most {_LONGEST:,} characters", "divide it among selections")
        self._tokens = list(self._read())
        self._at = self._depth = 0

    def _read(self) -> Iterator[tuple[str, int]]:
        at, end = 0, len(self._text.rstrip())
        while at < end:
            found = _TOKEN.match(self._text, at)
            if found is None:
                at += len(self._text[at:]) - len(self._text[at:].lstrip())
                self._refuse(
                    at, "it must hold names of selections, | & ~ and parentheses only", "see docs/selections.md"
                )
            yield _SIGNS.get(found[1], found[1]), found.start(1)
            at = found.end()

    def whole(self) -> Node:
        tree = self._or()
        if self._next is not None:
            self._expected("| or &")
        return tree

    @property
    def _next(self) -> str | None:
        return self._tokens[self._at][0] if self._at < len(self._tokens) else None

    def _or(self) -> Node:
        parts = [self._and()]
        while self._next == "|":
            self._at += 1
            parts.append(self._and())
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def _and(self) -> Node:
        parts = [self._not()]
        while self._next == "&":
            self._at += 1
            parts.append(self._not())
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _not(self) -> Node:
        inverted = False
        while self._next == "~":
            self._at += 1
            inverted = not inverted
        return Not(self._one()) if inverted else self._one()

    def _one(self) -> Node:
        token = self._next
        if token == "(":
            self._depth += 1
            if self._depth > _DEEPEST:
                self._refuse(self._place, f"parentheses must be at most {_DEEPEST} deep", "divide it among selections")
            self._at += 1
            inner = self._or()
            if self._next != ")":
                self._expected(")")
            self._at += 1
            self._depth -= 1
            return inner
        if token is None or token in "|&~)":
            self._expected("a name or (")
        self._at += 1
        return Name(token)

    @property
    def _place(self) -> int:
        return self._tokens[self._at][1] if self._at < len(self._tokens) else len(self._text.rstrip())

    def _expected(self, what: str) -> NoReturn:
        found = "its end" if self._next is None else self._text[self._place :].split()[0]
        self._refuse(self._place, f"{what} must follow, and {found} does", "see docs/selections.md")

    def _refuse(self, at: int, problem: str, fix: str) -> NoReturn:
        start = max(0, at - 60)
        window = self._text.replace("\n", " ")[start : at + 40]
        pointed = f"{window}\n       {' ' * (at - start)}^"
        raise RecipeError(f"{self._key}, column {at + 1}: {problem}", value=pointed, fix=fix)
