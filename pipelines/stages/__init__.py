"""The stages as Ray Data calls them: each takes a whole shard, does its work, and reports to the progress board.

Here is only what joins stages to Ray (actor handles, reports); what a stage does is in its own module of `curation`.

Read in this order: told, rows (every streaming stage), deduplicate, pack.
"""
