"""The thresholds of a selection: each number that a rule compares a number of the row with.

    where: "score_clip > quantile(score_clip, 0.7, by=language) and 0.5 < aspect <= 2"
           score_clip > quantile(…)    aspect > 0.5    aspect <= 2
    top:   {by: score_clip, share: 0.3}
           score_clip >= the score of the last row that stays

What functions over all rows came to is known only while a selection is made, so the manifest of each of its shards
records it (`facts_of`), and whoever has the manifest has the thresholds (`thresholds_of`).
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curation.filters.syntax import POPULATION, Source, name_of, parse
from curation.filters.where import columns_of, compile_group, compile_number
from curation.selections.balance_rule import BALANCE
from curation.selections.expression import ALL
from curation.selections.ranking import value_of
from curation.selections.steps import TOP, WHERE, Found, Rules
from pairmill.errors import RecipeError

Floats = npt.NDArray[np.float64]

#: Groups of rows that a manifest has the values of: those of the first names, and rows without one.
GROUPS = 64

_LAST = np.uint64(2**64 - 1)
_OPERATORS: Mapping[type[ast.cmpop], str] = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
_COMPARE: Mapping[str, Callable[[Floats, Floats], npt.NDArray[np.bool_]]] = {
    **{"<": operator.lt, "<=": operator.le},
    **{">": operator.gt, ">=": operator.ge},
}


def facts_of(rules: Rules, found: Found) -> dict[str, Any]:
    """What a manifest records, as plain data: the expressions, and what was found of all rows for them.

    values: a call of a function over all rows -> its value in each group.  top: the last score that stays in each.
    Of more than `GROUPS` groups only the first are there; `groups` is how many there are.
    balance: the digest of its metadata.  from: the selections whose rows it chooses from, if there is anything else.
    """
    facts: dict[str, Any] = {}
    where = rules.config.where
    if where is not None:
        called = [text for text, (source, _) in rules.calls.items() if source.key.endswith(".where")]
        facts[WHERE] = {
            "expression": where,
            "values": {text: _by_group(found.values[text]) for text in called},
        }
    top = rules.config.top
    if top is not None and top.by is not None and found.top is not None:
        words = found.top["score"].to_numpy()
        scored = found.top.filter(pa.array(words != _LAST))
        last = pa.table({"group": scored["group"], "value": value_of(~scored["score"].to_numpy())})
        facts[TOP] = {"by": top.by, "per": top.per, **_by_group(last)}
    if rules.balance is not None:
        facts[BALANCE] = {"metadata": rules.balance.digest}
    return facts | ({"from": rules.config.source} if facts else {})


def _by_group(table: pa.Table) -> dict[str, Any]:
    """table: group and value, by group, null last."""
    rows = table.slice(0, GROUPS)
    if len(table) > GROUPS and not table["group"][len(table) - 1].is_valid:
        rows = pa.concat_tables([rows.slice(0, GROUPS - 1), table.slice(len(table) - 1)])
    pairs = zip(rows["group"].to_pylist(), rows["value"].to_pylist(), strict=True)
    return {"groups": len(table), "of": [[group, value] for group, value in pairs if np.isfinite(value)]}


def without_groups(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What a manifest records (see `facts_of`) without the names of groups, such as hosts, and their values."""
    found = dict(facts)
    if (where := found.get(WHERE)) is not None:
        found[WHERE] = {**where, "values": {text: _unnamed(one) for text, one in where["values"].items()}}
    if (top := found.get(TOP)) is not None:
        found[TOP] = _unnamed(top)
    return found


def _unnamed(values: Mapping[str, Any]) -> dict[str, Any]:
    return {**values, "of": [[group, value] for group, value in values["of"] if not group]}


@dataclass(frozen=True)
class Threshold:
    """A comparison of a number of the row with a number of the rule.

    selection, rule: where it is from (`where` or `top`).  subject: the expression of the row's number.
    sign: how the row's number must compare, <, <=, > or >=.  against: what it is compared with, as it is written.
    by: the expression that divides rows into groups, of which each has a number; None: all rows have one.
    values: a call of a function over all rows, or `top` -> its value in each group.
    source: the expression `from` of the selection.
    """

    selection: str
    rule: str
    subject: str
    sign: str
    against: str
    by: str | None
    values: Mapping[str, Mapping[str | None, float]]
    source: str = ALL

    @property
    def columns(self) -> list[str]:
        """The columns that it reads, by their names in expressions, sorted."""
        own = {*columns_of(Source(self.subject))}
        if self.rule != TOP:
            own |= {*columns_of(Source(self.against, population=True))}
        elif self.by is not None:
            own |= {*columns_of(Source(self.by))}
        return sorted(own)

    def numbers(self, rows: pa.Table) -> Floats:
        """The row's number, [rows]; NaN where there is none.  Raises RecipeError for columns it does not fit."""
        found = compile_number(Source(self.subject), rows.schema.names)(rows)
        return np.asarray(pc.fill_null(found, np.nan), np.float64)

    def limits(self, rows: pa.Table) -> Floats:
        """What the row's number is compared with, [rows]; NaN where it is not known."""
        if self.rule == TOP:
            found = _looked_up(self.values[TOP], _groups(self.by, rows), len(rows))
        else:
            source = Source(self.against, population=True)

            def population(call: ast.Call, by: Any) -> Any:
                one = self.values.get(ast.unparse(call), {})
                return pa.array(_looked_up(one, None if by is None else _texts(by, len(rows)), len(rows)))

            found = np.asarray(pc.fill_null(compile_number(source, rows.schema.names)(rows, population), np.nan))
        return np.asarray(found, np.float64)

    def groups(self, rows: pa.Table) -> list[str | None]:
        """The group of each row, [rows]; None for all where the number of the rule is one."""
        return _groups(self.by, rows) or [None] * len(rows)

    def passes(self, numbers: Floats, limits: Floats) -> npt.NDArray[np.bool_]:
        """Which rows compare as they must, [rows]; NaN does not."""
        with np.errstate(invalid="ignore"):
            return _COMPARE[self.sign](numbers, limits)


def thresholds_of(selection: str, facts: Mapping[str, Any]) -> list[Threshold]:
    """The thresholds of a selection, in the order in which its rules have them.  facts: see `facts_of`."""
    found = []
    source = facts.get("from", ALL)
    if (where := facts.get(WHERE)) is not None:
        values = {text: dict(one["of"]) for text, one in where["values"].items()}
        try:
            tree = parse(Source(where["expression"], population=True))[0]
        except RecipeError:  # written by a version with another language
            return []
        for subject, sign, against in comparisons(tree):
            written = (ast.unparse(subject), sign, ast.unparse(against))
            found.append(Threshold(selection, WHERE, *written, _divided(against), values, source))
    if (top := facts.get(TOP)) is not None and "random" not in _called(parse(Source(top["by"]))[0]):
        last = {TOP: {group if top["per"] is not None else None: value for group, value in top["of"]}}
        per = "host(url)" if top["per"] == "host" else top["per"]
        found.append(Threshold(selection, TOP, top["by"], ">=", "the last that stays", per, last, source))
    return _once(found)


def comparisons(tree: ast.expr) -> Iterator[tuple[ast.expr, str, ast.expr]]:
    """Each comparison of a number of the row with one of the rule: the former, how it must compare, the latter.

    Comparisons of texts, of two numbers of the row, by == and of `random` are none.
    """
    for node in ast.walk(tree):
        if not isinstance(node, ast.Compare):
            continue
        sides = [node.left, *node.comparators]
        for left, sign, right in zip(sides, node.ops, sides[1:], strict=False):
            if type(sign) not in _OPERATORS:
                continue
            written = _OPERATORS[type(sign)]
            if _of_row(left) and _of_rule(right):
                yield left, written, right
            elif _of_rule(left) and _of_row(right):
                yield right, _MIRRORED[written], left


def _once(found: list[Threshold]) -> list[Threshold]:
    seen: dict[tuple[str, ...], Threshold] = {}
    for one in found:
        seen.setdefault((one.rule, one.subject, one.sign, one.against), one)
    return list(seen.values())


def _of_row(node: ast.expr) -> bool:
    """Whether it is a number of the row that no chance and no other row decides."""
    if _called(node) & {*POPULATION, "random"}:
        return False
    return any(isinstance(one, ast.expr) and name_of(one) is not None for one in ast.walk(node))


def _called(node: ast.expr) -> set[str]:
    return {ast.unparse(one.func) for one in ast.walk(node) if isinstance(one, ast.Call)}


def _of_rule(node: ast.expr) -> bool:
    """Whether it is a number that rows do not have, or only through their group."""
    match node:
        case ast.Constant(value=value):
            return isinstance(value, int | float) and not isinstance(value, bool)
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
            return _of_rule(operand)
        case ast.BinOp(left=left, right=right):
            return _of_rule(left) and _of_rule(right)
        case ast.Call(func=ast.Name(id=name)):
            return name in POPULATION
    return False


def _divided(against: ast.expr) -> str | None:
    """The expression that divides rows into the groups of a number of the rule; the first, if there are several."""
    for node in ast.walk(against):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in POPULATION and node.keywords:
            return ast.unparse(node.keywords[0].value)
    return None


def _groups(by: str | None, rows: pa.Table) -> list[str | None] | None:
    return None if by is None else compile_group(Source(by), rows.schema.names)(rows).to_pylist()


def _texts(by: Any, rows: int) -> list[str | None]:
    return [by.as_py()] * rows if isinstance(by, pa.Scalar) else by.to_pylist()


def _looked_up(values: Mapping[str | None, float], groups: list[str | None] | None, rows: int) -> Floats:
    if groups is None:
        return np.full(rows, next(iter(values.values()), np.nan))
    return np.array([values.get(group, np.nan) for group in groups], np.float64)
