"""The entries of all objectives, from the modules of their references."""

from __future__ import annotations

import naive_contrastive
import naive_generative
import naive_lotlip
import naive_policies
import naive_similarities
import naive_targets
import naive_terms
import naive_tokens
import naive_views

ENTRIES = [
    *naive_contrastive.ENTRIES,
    *naive_lotlip.ENTRIES,
    *naive_targets.ENTRIES,
    *naive_terms.ENTRIES,
    *naive_similarities.ENTRIES,
    *naive_views.ENTRIES,
    *naive_tokens.ENTRIES,
    *naive_policies.ENTRIES,
    *naive_generative.ENTRIES,
]
BY_NAME = {entry.name: entry for entry in ENTRIES}
