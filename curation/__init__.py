"""URLs to curated Parquet: the row store, the stages, the global selections and the results of a run.

Read in the order the data flows: schema, inputs, identity, plan, store, shards; web, images, download; filters;
duplicates, selection; recaption, translate, engines, gates; best_text, pack; results.  Nothing here imports
`pipelines`.
"""
