"""Notice before anything is fetched that a list has no texts and the recipe keeps no row without one."""

from __future__ import annotations

import pyarrow.compute as pc

from curation.filters.stage import FilterConfig
from curation.plan_file import Plan
from curation.table import PLAN
from pairmill.store import Store


def warning(store: Store, planned: Plan, config: FilterConfig) -> str | None:
    """What to tell the user if no list of the run has a text, and the filter's least lengths drop every row for it.

    Looks at the first shard of each list, which is a random sample of its rows.
    """
    least = {"text_too_short": config.min_characters, "text_too_few_words": config.min_words}
    if not config.enabled or not any(n for reason, n in least.items() if reason not in config.score_only):
        return None
    for listed in planned.inputs:
        alts = store.load(PLAN, listed.first_shard, ["alt"])["alt"]
        # Forgotten rows have none.
        if pc.any(pc.greater(pc.utf8_length(alts), 0)).as_py() is not False:
            return None
    return (
        f"no row of the list has a text, so filter.min_characters ({config.min_characters}) and filter.min_words "
        f"({config.min_words}) drop every row, after all pictures have been fetched: to keep them, set both to 0, or "
        f"input.text_column ({planned.inputs[0].text_column or 'null'}) to the column of texts"
    )
