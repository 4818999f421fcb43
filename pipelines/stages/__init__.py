"""The stages as Ray Data calls them: each takes a whole shard, does its work, and reports to the progress board.

These modules only connect stages to Ray (actor handles, reports); what a stage does is in its module of `curation`.

Read in this order: reporting, row_stage (every streaming stage), pictures (fetched again, or erased),
deduplicate, pack.
"""
