"""One selection as what it does to the rows of a shard, given what was found over all shards.

    from -> uids -> where -> decontaminate -> dedup -> quota -> top -> balance

Each step leaves rows out, for a reason: that of the selection it is made from, `not_selected`, `where`,
`contaminated_NAME`, a kind of duplicate (with `_elsewhere` if a row of another run stays instead), `quota`, `top`,
`balance` or `no_entry`.  A step with a number over all rows is found among the rows that the steps before it keep.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curation.balancing.balance import Floats
from curation.duplicates.kinds import PIXELS, kinds_of, reads
from curation.duplicates.other_runs import ELSEWHERE, reasons_elsewhere
from curation.filters.syntax import Source
from curation.filters.where import (
    columns_of,
    compile_group,
    compile_number,
    compile_operands,
    compile_where,
    indifferent_up_to,
    population_calls,
)
from curation.selection import groups_of
from curation.selections.balance_rule import BALANCE, NO_ENTRY, Balance
from curation.selections.chain import expressions_of
from curation.selections.config import SelectionConfig
from curation.selections.cuts import kept_by
from curation.selections.decontaminate_rule import DECONTAMINATE
from curation.selections.expression import ALL, And, Mask, Name, evaluate, names_of, parse_names
from curation.selections.ranking import measured, ranked
from curation.selections.skew_rule import pair_of, weighed
from curation.selections.uids import contained, read_uids, uids_digest
from pairmill.errors import IntegrityError, RecipeError, nearest

NOT_SELECTED, WHERE, QUOTA, TOP = "not_selected", "where", "quota", "top"

#: The steps in their order; `from` and `uids` are before them.
STEPS = ("where", DECONTAMINATE, "dedup", "quota", "top", BALANCE)

#: The positive numbers of float32, which weights are kept in.
_LEAST_WEIGHT, _LARGEST_WEIGHT = 2.0**-149, float(np.finfo(np.float32).max)

Reasons = npt.NDArray[np.object_]


@dataclass(frozen=True)
class Found:
    """What was found over all shards, so far.

    values: a call of a function over all rows -> (group, value), one line for each group.
    losers: shard -> (row, reason, survivor) of the rows in it that have duplicates; reason is null for one that stays.
    quota, top: cuts (`curation.selections.cuts`).
    balance: language -> the probability of each entry of the metadata.
    skew: the weight of each concept and attribute (`curation.selections.skew_rule`).
    """

    values: Mapping[str, pa.Table] = field(default_factory=dict)
    losers: Callable[[int], pa.Table] | None = None
    quota: pa.Table | None = None
    top: pa.Table | None = None
    balance: Mapping[str, Floats] | None = None
    skew: pa.Table | None = None


@dataclass(frozen=True)
class ShardRows:
    """The rows of a shard.

    rows:  the columns that the selection reads, by the names of its expressions; uid and drop_reason.
    bases: the selections it is made from: keep, reason.
    """

    shard: int
    rows: pa.Table
    bases: Mapping[str, pa.Table] = field(default_factory=dict)


class Rules:
    """One selection of a recipe."""

    def __init__(self, name: str, config: SelectionConfig) -> None:
        """Raises RecipeError for an expression that is none."""
        self.name, self.config = name, config
        self._tree = parse_names(config.source, f"selections.{name}.from")
        self._expressions = expressions_of(name, config)
        # Workers are in other folders.
        self._uids = None if config.uids is None else Path(os.path.abspath(config.uids))
        self.balance = None if config.balance is None else Balance(config.balance)

    def seeing(self, columns: Collection[str]) -> Rules:
        """With what its kinds of duplicates leave to the columns of the stages (their names) filled in.

        Raises RecipeError where these do not decide.
        """
        if not self.config.dedup:
            return self
        kinds = self.config.duplicates.resolved(columns).kinds
        return Rules(self.name, self.config.model_copy(update={"dedup": kinds}))

    @property
    def bases(self) -> list[str]:
        """The selections that it is made from, without `all`."""
        return [name for name in names_of(self._tree) if name != ALL]

    @property
    def within(self) -> list[str]:
        """Those of its bases that hold all of its rows."""
        parts = self._tree.parts if isinstance(self._tree, And) else (self._tree,)
        return [part.name for part in parts if isinstance(part, Name) and part.name != ALL]

    @property
    def columns(self) -> list[str]:
        """The columns that its rules read, by their names in expressions, sorted."""
        found = {name for source in self._expressions.values() for name in columns_of(source)}
        found |= set(reads(self.config.duplicates))
        found |= {*self._balanced, *self._matched}
        return sorted(found | ({self.config.uid_column} if self.config.uids is not None else set()))

    @property
    def of_all(self) -> bool:
        """Whether what becomes of a row may depend on other rows."""
        config = self.config
        return bool(config.dedup or config.quota or config.top or config.balance or config.skew or self.calls)

    @cached_property
    def calls(self) -> dict[str, tuple[Source, ast.Call]]:
        """The calls of functions over all rows, by their own text, with the expression that each stands in."""
        return {
            text: (source, call)
            for source in self._expressions.values()
            if source.population
            for text, call in population_calls(source).items()
        }

    def alike(self, text: str) -> int:
        """The largest number of rows up to which a group's count is not asked for: 1 stands for it.  text: a call.

        Of a billion URLs the few that occur more than ten times need a line, the others need none.
        """
        using = [source for source in self._expressions.values() if source.population]
        bounds = [indifferent_up_to(source, text) for source in using if text in population_calls(source)]
        return min(1 << 62, int(min(bounds, default=0)))

    @property
    def own_reasons(self) -> tuple[str, ...]:
        """Every reason for which its own steps may leave a row out."""
        kinds = [] if self.config.groups else [kind.name for kind in kinds_of(self.config.duplicates)]
        kinds += [f"{kind}{ELSEWHERE}" for kind in kinds if self.config.against]
        found = [NOT_SELECTED, WHERE if self.config.where is not None else None]
        found += [] if self.config.decontaminate is None else self.config.decontaminate.reasons
        found += kinds
        found += [key for key in (QUOTA, TOP) if getattr(self.config, key)]
        found += [BALANCE, NO_ENTRY] if self.config.balance is not None else []
        return tuple(name for name in found if name)

    def check(self, columns: Mapping[str, pa.DataType]) -> None:
        """Raise RecipeError for a rule that does not fit the columns, and for a file that is none of uids.

        columns: by their names in expressions.  Pictures are none: a selection reads narrow columns.
        """
        columns = {name: kind for name, kind in columns.items() if name != "image"}
        schema = pa.schema(list(columns.items()))
        for key, source in self._expressions.items():
            _compiler(key)(source, schema)
        numbers = [name for name, kind in columns.items() if pa.types.is_integer(kind) or pa.types.is_floating(kind)]
        if self.config.dedup and self.config.score not in (PIXELS, *numbers):
            raise RecipeError(
                f"selections.{self.name}.score must name a numeric column",
                value=self.config.score,
                fix=f"perhaps you mean: {nearest(self.config.score, [PIXELS, *numbers])}",
            )
        for key, name in [
            *(("dedup", name) for kind in kinds_of(self.config.duplicates) for name in kind.reads),
            *([("uid_column", self.config.uid_column)] if self.config.uids is not None else []),
            *(("balance", name) for name in self._balanced),
        ]:
            if name not in columns:
                raise RecipeError(
                    f"selections.{self.name}.{key} must read a column of the list or of a stage",
                    value=name,
                    fix=f"perhaps you mean: {nearest(name, columns)}",
                )
        for one in kinds_of(self.config.duplicates):
            one.check(columns)
        if self.config.decontaminate is not None:
            self.config.decontaminate.check(columns, f"selections.{self.name}.decontaminate")
        if self._uids is not None:
            kind = columns[self.config.uid_column]
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                raise RecipeError(
                    f"selections.{self.name}.uid_column must be a column of texts, of 32 hex digits each",
                    value=f"{self.config.uid_column}, which is {kind}",
                    fix="name another column; uid: the rows' own",
                )
            uids_digest(self._uids)
        if self.balance is not None:
            self.balance.check(columns, f"selections.{self.name}.balance")

    @property
    def _matched(self) -> tuple[str, ...]:
        """The columns of matches with evaluation sets."""
        return () if self.config.decontaminate is None else self.config.decontaminate.reads

    @property
    def _balanced(self) -> tuple[str, ...]:
        """The columns that balancing reads."""
        return () if self.config.balance is None else (self.config.balance.text, self.config.balance.language)

    # Of one shard

    def reasons(self, given: ShardRows, found: Found, before: str = "") -> Reasons:
        """Why each row is left out, [rows] of text; None: it stays.  before: only by the steps before this one."""
        reasons = self._from(given)
        for step in STEPS:
            if step == before:
                break
            live = staying(reasons)
            for reason, mask in self._left_out(step, given, found, live).items():
                reasons[mask & live] = reason
                live &= ~mask
        return reasons

    def _from(self, given: ShardRows) -> Reasons:
        rows = given.rows
        reasons = _objects(rows["drop_reason"])
        live = staying(reasons)
        masks = {name: np.asarray(base["keep"], np.bool_) for name, base in given.bases.items()}
        chosen = evaluate(self._tree, {**masks, ALL: np.ones(len(rows), np.bool_)})
        if isinstance(self._tree, Name) and self._tree.name != ALL:
            why = _objects(given.bases[self._tree.name]["reason"])
        else:
            why = np.full(len(rows), NOT_SELECTED, object)
        reasons[live & ~chosen] = why[live & ~chosen]
        if self._uids is not None:
            live = staying(reasons)
            reasons[live & ~contained(rows[self.config.uid_column], read_uids(self._uids))] = NOT_SELECTED
        return reasons

    def _left_out(self, step: str, given: ShardRows, found: Found, live: Mask) -> dict[str, Mask]:
        rows = given.rows
        if step == "where" and "where" in self._expressions:
            kept = self._evaluated("where", rows, found)
            return {WHERE: ~np.asarray(pc.fill_null(kept, False), np.bool_)}
        if step == DECONTAMINATE and self.config.decontaminate is not None:
            return self.config.decontaminate.left_out(rows)
        if step == "dedup" and found.losers is not None and not self.config.groups:
            return _lost(found.losers(given.shard), live)
        if step == BALANCE and self.balance is not None and found.balance is not None:
            return self.balance.left_out(rows, live, found.balance)
        if step in (QUOTA, TOP) and (cuts := getattr(found, step)) is not None:
            return {step: ~kept_by(self._ranked(step, rows), cuts)}
        return {}

    def weight(self, rows: pa.Table, reasons: Reasons, found: Found) -> pa.Array:
        """float32 [rows]: of the rows that stay; null for the others.

        What is no positive finite number is 0; one that float32 does not reach is its largest or smallest.
        """
        if found.skew is not None:
            values = weighed(self._pairs(rows), found.skew)
        else:
            values = np.asarray(pc.fill_null(self._evaluated("weight", rows, found), 0.0), np.float64)
        reached = np.clip(values, _LEAST_WEIGHT, _LARGEST_WEIGHT).astype(np.float32)
        good = np.where(np.isfinite(values) & (values > 0), reached, np.float32(0))
        return pa.array(good, pa.float32(), mask=~staying(reasons))

    def families(self, given: ShardRows, found: Found) -> pa.Array:
        """`duplicate_group` [rows]: of the duplicates that its own rule finds."""
        nothing = pa.nulls(len(given.rows), pa.string())
        return nothing if found.losers is None else groups_of(found.losers(given.shard), len(given.rows))

    # What is found over all shards

    def counted(self, text: str, given: ShardRows) -> pa.Table:
        """The rows that a call of a function over all rows is about, as `ranking.RANKED`."""
        source, call = self.calls[text]
        rows = given.rows.filter(pa.array(staying(self._from(given))))
        numbers, group = compile_operands(source, call)(rows)
        if numbers is None:
            numbers = pa.chunked_array([pa.repeat(0.0, len(rows))])
        return measured(group, numbers)

    def mentions(self, given: ShardRows, found: Found) -> pa.Table:
        """How many captions of the rows that come to balancing name each entry (`balance_rule.MENTIONS`, and key)."""
        if self.balance is None:
            raise IntegrityError(f"selection {self.name} has no rule balance")
        return self.balance.counted(given.rows, staying(self.reasons(given, found, BALANCE)))

    def skewed(self, given: ShardRows, found: Found, cuts: pa.Table | None = None) -> pa.Table:
        """The rows that stay and count for the rule against skew, as `RANKED`, their group that of `pair_of`.

        cuts: only the first rows of each concept.
        """
        rows = given.rows.filter(pa.array(staying(self.reasons(given, found))))
        pairs = self._pairs(rows)
        rows = rows.filter(pairs.is_valid())
        if cuts is not None:
            first = pa.array(kept_by(self._ranked("weight", rows), cuts))
            rows = rows.filter(first)
        return ranked(pa.chunked_array([self._pairs(rows)]), None, rows["uid"])

    def of_concepts(self, given: ShardRows, found: Found) -> pa.Table:
        """The same rows as `RANKED`, their group their concept, the first by the rule's `by`."""
        rows = given.rows.filter(pa.array(staying(self.reasons(given, found))))
        return self._ranked("weight", rows.filter(self._pairs(rows).is_valid()))

    def _pairs(self, rows: pa.Table) -> pa.Array:
        if self.config.skew is None:
            raise IntegrityError(f"selection {self.name} has no rule against skew")
        concept = self._evaluated("weight.per", rows, Found()) if "weight.per" in self._expressions else None
        return pair_of(concept, self._evaluated("weight.of", rows, Found()), self.config.skew.desired)

    def competing(self, step: str, given: ShardRows, found: Found) -> pa.Table:
        """The rows among which quota or top choose, as `ranking.RANKED`."""
        here = staying(self.reasons(given, found, step))
        return self._ranked(step, given.rows.filter(pa.array(here)))

    def _ranked(self, step: str, rows: pa.Table) -> pa.Table:
        group = self._evaluated(f"{step}.per", rows, Found()) if f"{step}.per" in self._expressions else None
        score = self._evaluated(f"{step}.by", rows, Found()) if f"{step}.by" in self._expressions else None
        return ranked(group, score, rows["uid"])

    def _evaluated(self, key: str, rows: pa.Table, found: Found) -> pa.ChunkedArray:
        def population(call: ast.Call, by: Any) -> Any:
            values = found.values[ast.unparse(call)]
            # Groups that are no larger than what is alike have no line.
            small = pa.scalar(1.0 if is_count(call) and self.alike(ast.unparse(call)) else None, pa.float64())
            if by is None:
                return values["value"][0] if len(values) else small
            at = pc.index_in(by, value_set=values["group"].combine_chunks())
            of_group = values["value"].take(at) if isinstance(at, pa.Array | pa.ChunkedArray) else _one(values, at)
            return pc.coalesce(of_group, small)

        return _compiler(key)(self._expressions[key], rows.schema.names)(rows, population)


def _compiler(key: str) -> Callable[..., Callable[..., pa.ChunkedArray]]:
    if key == "where":
        return compile_where
    return compile_group if key.endswith((".per", ".of")) else compile_number


def is_count(call: ast.Call) -> bool:
    """Whether a call of a function over all rows counts them."""
    return ast.unparse(call.func) == "count"


def _one(values: pa.Table, at: pa.Scalar) -> pa.Scalar:
    place = at.as_py()
    return pa.scalar(None, values.schema.field("value").type) if place is None else values["value"][place]


def _lost(losers: pa.Table, live: Mask) -> dict[str, Mask]:
    """Mask of the duplicates by kind.  Raises IntegrityError for one that was left out before."""
    losers = reasons_elsewhere(losers.filter(losers["reason"].is_valid()))
    at, why = losers["row"].to_numpy(), _objects(losers["reason"])
    if not live[at].all():
        raise IntegrityError("a duplicate must be one of the rows that were compared")
    masks: dict[str, Mask] = {}
    for reason in dict.fromkeys(why.tolist()):
        masks[reason] = np.zeros(len(live), np.bool_)
        masks[reason][at[why == reason]] = True
    return masks


def _objects(column: pa.ChunkedArray) -> Reasons:
    found = np.empty(len(column), object)
    found[:] = column.to_pylist()
    return found


def staying(reasons: Reasons) -> Mask:
    """Mask of the rows without a reason to go."""
    return np.fromiter((reason is None for reason in reasons), np.bool_, len(reasons))


def reasons_of(rules: Sequence[Rules], name: str) -> tuple[str, ...]:
    """Every reason for which a row may be left out of a selection, its own first.  rules: all of the recipe."""
    by_name = {one.name: one for one in rules}
    found: dict[str, None] = {}
    pending = [name]
    while pending:
        one = by_name.get(pending.pop())
        if one is not None:
            found |= dict.fromkeys(one.own_reasons)
            pending += one.bases
    return tuple(found)
