"""URLs to curated Parquet: the row store, the stages, the global selections and the run report.

Read in the order the data flows: schema, plan, store, fetch, inspect, filters, deduplicate, recaption, translate,
pack, report.  Nothing here imports `pipelines`.
"""
