"""A selection of the recipe, as a stage: the global step through which the product's rows pass (`pack.selection`)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.duplicates.kinds import reasons
from curation.duplicates.stage import Deduplicate
from curation.schema import DROPS, add_found, set_columns
from curation.selection import GROUP, GROUP_ID, apply_selection, group_ids_of
from curation.selections.balance_rule import BALANCE, NO_ENTRY
from curation.selections.chain import ordered
from curation.selections.config import Section, SelectionConfig
from curation.selections.steps import NOT_SELECTED, QUOTA, TOP, WHERE, Found, Rules, ShardRows, staying
from curation.selections.thresholds import facts_of
from curation.stage import Column, Stage
from pairmill.errors import RecipeError, nearest
from pairmill.layout import SELECTIONS

_COLUMNS: tuple[Column, ...] = (
    Column("keep", pa.bool_(), "whether the row is part of the selection"),
    Column("reason", pa.string(), "why it is not"),
)
_WEIGHT = Column("weight", pa.float32(), "how much more often than others the row is drawn; null: it is left out")


class Select(Stage):
    """Keep the rows of one selection."""

    name, segment, table, pool = "select", "global", SELECTIONS, None
    adds = _COLUMNS
    drops = (NOT_SELECTED, WHERE, *reasons(), QUOTA, TOP, BALANCE, NO_ENTRY)
    reads_input = True
    Config = SelectionConfig

    def __init__(self, rules: Rules, others: Sequence[Rules] = (), given: Deduplicate | Select | None = None) -> None:
        """others: selections that it may take reasons and groups over from.  given: what makes one more of these."""
        super().__init__(rules.config)
        self.selection = rules.name
        self._take(rules)
        #: Columns that it takes over from bases that hold all of its rows, with the base.
        self.taken_over = _taken_over(rules, others, given)
        own_groups = [GROUP] * bool(rules.config.dedup) + [GROUP_ID] * rules.config.groups
        groups = [one for one in (GROUP, GROUP_ID) if one in own_groups or one.name in self.taken_over]
        self.adds = (*_COLUMNS, *groups, *([_WEIGHT] if rules.config.weight is not None else []))
        own = [reason for one in (rules, *others) for reason in one.own_reasons]
        self.drops = tuple(dict.fromkeys([*type(self).drops, *own, *(given.drops if given is not None else ())]))

    def _take(self, rules: Rules) -> None:
        self.rules, self.config = rules, rules.config
        self.reads = tuple(rules.columns)

    def see(self, columns: Collection[str]) -> None:
        """Fill in what kinds of duplicates leave to the columns of the stages before.  Raises RecipeError."""
        self._take(self.rules.seeing(columns))

    def facts(self, rows: pa.Table) -> dict[str, Any]:
        """The sum of the weights of the rows that stay."""
        return (
            {"weight": pc.sum(rows["weight"].cast(pa.float64())).as_py() or 0.0}
            if "weight" in rows.schema.names
            else {}
        )


def selected(stage: Select, rows: pa.Table, given: ShardRows, found: Found) -> pa.Table:
    """The rows of a shard with the stage's columns, those that are not in the selection dropped.

    rows: with drop_stage and drop_reason.  given: the same rows as the rules take them.
    """
    reasons = stage.rules.reasons(given, found)
    # A base that was made by filters of its own has reasons of theirs.
    live, known = np.asarray(pc.is_null(rows["drop_reason"]), np.bool_), {None, *stage.drops}
    reasons[live & [reason not in known for reason in reasons]] = NOT_SELECTED
    made = {"keep": pa.array(staying(reasons)), "reason": pa.array(reasons.tolist(), pa.string())}
    for name, base in stage.taken_over.items():
        there = given.bases[base][name].combine_chunks()
        made[name] = pc.if_else(made["keep"], there, pa.scalar(None, there.type)) if name == GROUP_ID.name else there
    if stage.rules.config.dedup:
        made[GROUP.name] = stage.rules.families(given, found)
    if stage.rules.config.groups:
        made[GROUP_ID.name] = group_ids_of(rows["uid"], made[GROUP.name], made["keep"])
    if stage.rules.config.weight is not None:
        made["weight"] = stage.rules.weight(given.rows, reasons, found)
    rows = set_columns(rows, made)
    dropped = apply_selection(rows, stage.name, stage.drops)
    return add_found(
        set_columns(rows, {name: dropped[name] for name in DROPS}), stage.name, facts_of(stage.rules, found)
    )


def rules_of(recipe: Mapping[str, Any], given: str) -> tuple[Rules, ...]:
    """The selections of a recipe's sections, each after those that it is made from.

    recipe: plain data, or configurations.  given: the name of the deduplicate section's selection.
    Raises RecipeError for a section that breaks a rule.
    """
    section = recipe.get("selections") or {}
    selections = Section.checked({"selections": section}).selections
    return tuple(Rules(name, selections[name]) for name in ordered(selections, [given]))


def _taken_over(rules: Rules, others: Sequence[Rules], given: Deduplicate | Select | None) -> dict[str, str]:
    """The columns of groups that a selection does not make itself -> the base that has them."""
    known = {one.name: one for one in others}
    made = {GROUP.name: bool(rules.config.dedup), GROUP_ID.name: rules.config.groups}
    found: dict[str, str] = {}
    for name in (name for name, own in made.items() if not own):
        pending = [(base, base) for base in reversed(rules.within)]
        while pending and name not in found:
            base, at = pending.pop()
            if at not in known:
                has = given is not None and given.selection == at and name in given.column_names()
            else:
                config = known[at].config
                has = bool(config.dedup) if name == GROUP.name else config.groups
                pending += [(base, one) for one in reversed(known[at].within)] if not has else []
            if has:
                found[name] = base
    return found


def selecting(rules: Sequence[Rules], name: str, key: str, given: Deduplicate | None = None) -> Select:
    """The stage of one of the recipe's selections.

    key: of the recipe that names it, for the message.  given: the deduplicate section.

    Raises RecipeError for a name that is none.
    """
    for one in rules:
        if one.name == name:
            return Select(one, [other for other in rules if other is not one], given)
    known = [one.name for one in rules]
    raise RecipeError(
        f"{key} must name a selection of the recipe",
        value=name,
        fix=f"perhaps you mean: {nearest(name, known)}" if known else "add it to the section selections, or set null",
    )
