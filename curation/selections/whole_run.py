"""Find what a selection needs to know over all shards: values of functions over all rows, duplicates, cuts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pyarrow as pa

from curation.filters.syntax import literal
from curation.selections.balance_rule import MENTIONS, added
from curation.selections.config import QuotaConfig, TopConfig
from curation.selections.cuts import Ints, Limits, Passes, Wanted, find_cuts, find_sizes
from curation.selections.expression import Mask
from curation.selections.ranking import value_of
from curation.selections.skew_rule import SkewConfig, weights_of
from curation.selections.steps import QUOTA, TOP, Found, Rules, ShardRows, is_count, staying

#: What reads a shard.
Load = Callable[[int], ShardRows]

#: Who takes part in which shard (mask of its rows) -> the rows of each shard that have duplicates (row, reason,
#: survivor).
Losers = Callable[[Callable[[int], Mask]], Callable[[int], pa.Table]]


def find(rules: Rules, passes: Passes, load: Load, losers: Losers, *, rows: int, limits: Limits | None = None) -> Found:
    """What `Rules.reasons` needs.

    load: with the columns and bases that the rules read.  losers: finds the duplicates by `rules.config.duplicates`.
    rows: of all shards together.
    """
    found = Found(values={text: _value(rules, text, passes, load, rows, limits) for text in rules.calls})
    if rules.config.dedup:
        so_far = found

        def among(shard: int) -> Mask:
            return staying(rules.reasons(load(shard), so_far, "dedup"))

        found = replace(found, losers=losers(among))
    if rules.config.quota is not None:
        found = replace(found, quota=_cuts(rules, QUOTA, rules.config.quota, found, passes, load, rows, limits))
    if rules.config.top is not None:
        found = replace(found, top=_cuts(rules, TOP, rules.config.top, found, passes, load, rows, limits))
    if rules.balance is not None:
        chosen = found
        mentions = passes.shuffled(lambda shard: rules.mentions(load(shard), chosen), added, MENTIONS)
        found = replace(found, balance=rules.balance.found(mentions))
    if rules.config.skew is not None:
        found = replace(found, skew=_skew(rules, rules.config.skew, found, passes, load, rows, limits))
    return found


def _skew(
    rules: Rules, rule: SkewConfig, found: Found, passes: Passes, load: Load, rows: int, limits: Limits | None
) -> pa.Table:
    """The weight of each concept and attribute."""
    everywhere = find_sizes(passes, lambda shard: rules.skewed(load(shard), found))
    first = everywhere
    if (k := rule.rows) is not None:

        def wanted(size: Ints, _: int) -> Ints:
            return np.minimum(size, k)

        cuts = find_cuts(passes, lambda shard: rules.of_concepts(load(shard), found), wanted, rows=rows, limits=limits)
        first = find_sizes(passes, lambda shard: rules.skewed(load(shard), found, cuts))
    return weights_of(first, everywhere, rule)


def _value(rules: Rules, text: str, passes: Passes, load: Load, rows: int, limits: Limits | None) -> pa.Table:
    """The value of a function over all rows, for each group."""
    source, call = rules.calls[text]

    def read(shard: int) -> pa.Table:
        return rules.counted(text, load(shard))

    if is_count(call):
        sizes = find_sizes(passes, read, above=rules.alike(text))
        return pa.table({"group": sizes["group"], "value": sizes["rows"].cast(pa.float64())})
    share = Fraction(str(literal(source, call.args[1])))
    cuts = find_cuts(
        passes, read, lambda size, _: _inverted(size, share), rows=rows, words=1, always=True, limits=limits
    )
    return pa.table({"group": cuts["group"], "value": value_of(cuts["score"].to_numpy())})


def _inverted(size: Ints, share: Fraction) -> Ints:
    """Which of so many ordered values is the quantile, from 1: the inverted CDF."""
    return np.clip(_rounded_up(size.tolist(), share), 1, size)


def _rounded_up(rows: Sequence[int], share: Fraction) -> Ints:
    """Exact: 0.3 of 10 rows are 3, and 0.07 of 100 are 7, which they are not in binary."""
    return np.array([-(-one * share.numerator // share.denominator) for one in rows], np.int64)


def _cuts(
    rules: Rules,
    step: str,
    rule: QuotaConfig | TopConfig,
    found: Found,
    passes: Passes,
    load: Load,
    rows: int,
    limits: Limits | None,
) -> pa.Table:
    def read(shard: int) -> pa.Table:
        return rules.competing(step, load(shard), found)

    return find_cuts(passes, read, _wanted(rule), rows=rows, limits=limits)


def _wanted(rule: QuotaConfig | TopConfig) -> Wanted:
    of_group = isinstance(rule, TopConfig)

    def wanted(size: Ints, total: int) -> Ints:
        if rule.share is None:
            return np.minimum(size, rule.rows or 0)
        whole = size.tolist() if of_group else [total] * len(size)
        return np.minimum(size, _rounded_up(whole, Fraction(str(rule.share))))

    return wanted
