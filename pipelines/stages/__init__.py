"""The stages as Ray Data calls them: each takes a whole shard, does its work, and tells the progress board.

Here is only what joins a stage of `curation` to Ray (actor handles, constructor arguments); what a stage does is in
its own module.  One file a pool of workers, because a worker imports the file its stage is in, and starts the faster
for every library that is not in it.

Read in this order: told, download, filter, deduplicate, models, pack.
"""
