"""Standard evaluation of a dual encoder: zero-shot classification, retrieval, rank variance and embedding geometry.

Read in this order: config, dataset_kinds and metrics (the two registries), datasets, run (datasets to records),
encoder; then the kinds: retrieval, zero_shot with prompts; then the arithmetic: ranks, recall, rank_variance,
accuracy, geometry; results writes what came out.
"""
