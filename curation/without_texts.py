"""Notice before anything is fetched that a list has no texts and the recipe keeps no row without one."""

from __future__ import annotations

import pyarrow.compute as pc

from curation.filters.stage import FilterConfig
from curation.plan import Plan
from curation.table import PLAN
from pairmill.errors import RecipeError
from pairmill.store import Store


def check_texts(store: Store, planned: Plan, config: FilterConfig) -> None:
    """Raise RecipeError if no list of the run has a text, and the filter's least lengths drop every row for it.

    Looks at the first shard of each list, which is a random sample of its rows.
    """
    rules = {"text_too_short": config.min_characters, "text_too_few_words": config.min_words}
    dropping = [reason for reason, least in rules.items() if least and reason not in config.score_only]
    if not config.enabled or not dropping:
        return
    for listed in planned.inputs:
        alts = store.load(PLAN, listed.first_shard, ["alt"])["alt"]
        # Forgotten rows have none.
        if pc.any(pc.greater(pc.utf8_length(alts), 0)).as_py() is not False:
            return
    raise RecipeError(
        "filter.min_characters and filter.min_words must be 0 for a list without texts: they drop every row of it, "
        "after all pictures have been fetched",
        value=f"no row has a text; input.text_column: {planned.inputs[0].text_column or 'null'}, "
        f"filter.min_characters: {config.min_characters}, filter.min_words: {config.min_words}",
        fix="set filter.min_characters=0 and filter.min_words=0, or input.text_column to the column of texts",
    )
