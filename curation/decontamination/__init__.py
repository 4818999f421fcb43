"""Which rows a run shares with sets that others will be measured by: each match is listed, and selections drop them.

    evaluation set -> items -> fingerprints (references/NAME/) ─┐
                     rows of a shard (narrow columns) ──────────┴-> matches (columns/decontaminate-NAME/)

Read in this order: evaluation_set, match_kinds, same_image, picture_difference, near_image, caption_overlap,
embedding_cosine, item_fingerprints, stage.
"""
