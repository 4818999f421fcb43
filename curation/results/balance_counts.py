"""What the rule `balance` of a selection did: how many captions name each entry of the metadata, before and after.

Captions are looked up again, so in a large run only those of some shards, evenly chosen: rows are in an order of chance
there.  The counts are those of these shards.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curation.balancing.metadata import shown_name
from curation.results.outcome import Outcome, Run
from curation.results.shown_rows import columns_to_read, with_own
from curation.selections.balance_rule import BALANCE, NO_ENTRY, Balance, BalanceConfig
from curation.selections.expression import ALL, Mask, evaluate, parse_names
from curation.selections.selected_tables import facts_in
from curation.selections.steps import Rules
from pairmill.errors import RecipeError
from pairmill.layout import RECIPE_FILE, SELECTIONS
from pairmill.origin import origin_of
from pairmill.store import Store

#: Rows whose captions are looked up, about so many at most.
MOST_ROWS = 1_000_000

#: Entries that are listed, the most frequent first; and ranks of the curve.
_HEAD, _RANKS = 12, (1, 2, 5)

Counts = npt.NDArray[np.int64]


class BalanceTally:
    """The mentions of every entry before and after each balanced selection of the recipe."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._step = -(-run.plan.rows // MOST_ROWS) or 1
        self._balanced = [
            _Balanced(rules, Balance(_placed(run.store, rules.config.balance)), facts_in(run.store, rules.name))
            for rules in run.tables.flow.rules
            if rules.config.balance is not None
        ]
        self.columns = columns_to_read(run, [name for one in self._balanced for name in one.columns])

    def add(self, outcome: Outcome) -> None:
        """Count one shard, if it is among those that are looked at."""
        if self._balanced and outcome.shard % self._step == 0:
            rows = with_own(outcome.rows)
            for one in self._balanced:
                one.add(self._run, outcome.shard, rows)

    def data(self) -> dict[str, Any]:
        """Selection -> plain data; `missing` says why there is none."""
        return {one.name: {"one_shard_in": self._step, **one.data()} for one in self._balanced}


def _placed(store: Store, config: BalanceConfig) -> BalanceConfig:
    """With the place of the metadata as the run's recipe means it, wherever the report is asked for."""
    origin = origin_of(store.read_text(RECIPE_FILE) or "") or ""
    return config.model_copy(update={"metadata": Path(origin) / config.metadata})


class _Balanced:
    """One selection."""

    def __init__(self, rules: Rules, balance: Balance, facts: Mapping[str, Any]) -> None:
        """facts: of the selection's manifests."""
        self.name, self._rules, self._balance = rules.name, rules, balance
        self._tree = parse_names(rules.config.source, f"selections.{rules.name}.from")
        self.columns = [balance.config.text, balance.config.language]
        self._missing = ""
        self._captions = np.zeros(3, np.int64)  # that come to the rule, that name an entry, that stay
        self._entries: dict[str, list[str]] = {}
        try:
            self._entries = balance.entries()
            if (made_from := facts.get(BALANCE, {}).get("metadata", "")) != balance.digest:
                self._missing = "the metadata is another now" if made_from else "the selection is not made yet"
        except RecipeError as error:
            self._missing = f"the metadata cannot be read here: {error}"
        self._counts = {name: np.zeros((2, len(entries)), np.int64) for name, entries in self._entries.items()}

    def add(self, run: Run, shard: int, rows: pa.Table) -> None:
        """rows: with the columns of the captions and their languages, if they are there yet."""
        if self._missing or not set(self.columns) <= set(rows.schema.names):
            return
        names = [f"{SELECTIONS}/{name}" for name in (self.name, *self._rules.bases)]
        if any(run.store.entry(name, shard) is None for name in names):
            return
        chosen, *bases = (run.store.load(name, shard, ["uid", "keep", "reason"]) for name in names)
        if not chosen["uid"].equals(rows["uid"]):
            return
        keep = np.asarray(chosen["keep"], np.bool_)
        masks: dict[str, Mask] = {ALL: np.ones(len(rows), np.bool_)}
        masks |= {name: np.asarray(base["keep"], np.bool_) for name, base in zip(self._rules.bases, bases, strict=True)}
        here = pc.is_in(chosen["reason"], value_set=pa.array([BALANCE, NO_ENTRY]))
        live = evaluate(self._tree, masks) & (keep | np.asarray(here, np.bool_))
        stays = live & keep
        named = np.zeros(len(rows), np.bool_)
        for one in self._balance.mentioned(rows, live):
            entries, at = one.matches.entries, one.at[one.matches.text]
            named[at] = True
            counts = self._counts[one.language]
            counts[0] += np.bincount(entries, minlength=counts.shape[1])
            counts[1] += np.bincount(entries[stays[at]], minlength=counts.shape[1])
        self._captions += [int(live.sum()), int(named.sum()), int(stays.sum())]

    def data(self) -> dict[str, Any]:
        """Plain data."""
        if self._missing:
            return {"missing": self._missing}
        come, named, stay = self._captions.tolist()
        t = self._balance.config.t
        return {
            "t": {shown_name(name): one for name, one in t.items()} if isinstance(t, Mapping) else t,
            "captions": {"before": come, "named": named, "after": stay},
            "lists": [
                {"language": shown_name(name), **_of_list(self._entries[name], counts)}
                for name, counts in sorted(self._counts.items(), key=lambda one: (-one[1][0].sum(), one[0]))
                if counts[0].any()
            ],
        }


def _of_list(entries: list[str], counts: Counts) -> dict[str, Any]:
    """counts: [2, entries], before and after."""
    before, after = counts
    order = np.argsort(-before, kind="stable")
    ranked = [np.sort(one)[::-1] for one in counts]
    named = int((before > 0).sum())
    common = max(1, named // 100)
    return {
        "entries": len(entries),
        "named": {"before": named, "after": int((after > 0).sum())},
        "mentions": {"before": int(before.sum()), "after": int(after.sum())},
        # Those of the hundredth of the entries that are named most.
        "of_most_common": {"entries": common, **_both(before[order[:common]].sum(), after[order[:common]].sum())},
        "head": [{"entry": entries[at], **_both(before[at], after[at])} for at in order[:_HEAD].tolist() if before[at]],
        "curve": [{"rank": rank, **_both(ranked[0][rank - 1], ranked[1][rank - 1])} for rank in _ranks(named)],
    }


def _both(before: Any, after: Any) -> dict[str, int]:
    return {"before": int(before), "after": int(after)}


def _ranks(last: int) -> list[int]:
    """1, 2, 5, 10, 20, 50, … up to the last, which is one of them."""
    found = [part * 10**power for power in range(12) for part in _RANKS]
    return [rank for rank in found if rank < last] + ([last] if last else [])
