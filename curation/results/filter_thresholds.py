"""The thresholds of the filter's rules on scores: each number of the recipe that a score is compared with."""

from __future__ import annotations

import ast
from typing import NamedTuple

from curation.filters.stage import Filter, FilterConfig
from curation.filters.syntax import Source, parse
from curation.flow import Flow
from curation.selections.steps import WHERE
from curation.selections.thresholds import Threshold, comparisons

#: Key of the section `filter` -> the score, how it must compare, and the reason of rows for which it does not.
RULES = {
    "min_sharpness": ("sharpness", ">=", "image_too_blurry"),
    "min_entropy": ("entropy", ">=", "image_too_plain"),
    "min_quality": ("text_quality", ">=", "text_low_quality"),
    "min_language_score": ("language_score", ">=", "language_uncertain"),
    "nsfw_max": ("nsfw", "<=", "nsfw"),
}


class FilterThreshold(NamedTuple):
    """threshold: its `selection` is the key of the recipe.  reason: of the rows that the rule drops."""

    threshold: Threshold
    reason: str


def filter_thresholds(flow: Flow) -> list[FilterThreshold]:
    """Those of a flow's filter, in the order of `RULES`, and then those of `filter.where`.

    A rule that only fills a column (`filter.score_only`) drops nothing, and is none.
    """
    if Filter.name not in flow:
        return []
    config: FilterConfig = flow.of(Filter).config
    if not config.enabled:
        return []
    found = []
    for key, (column, sign, reason) in RULES.items():
        value = getattr(config, key)
        if value is not None and reason not in config.score_only:
            one = Threshold(f"filter.{key}", Filter.name, column, sign, str(value), None, {})
            found.append(FilterThreshold(one, reason))
    if config.where is not None and WHERE not in config.score_only:
        for subject, sign, against in comparisons(parse(Source(config.where))[0]):
            written = (ast.unparse(subject), sign, ast.unparse(against))
            found.append(FilterThreshold(Threshold("filter.where", Filter.name, *written, None, {}), WHERE))
    return found
