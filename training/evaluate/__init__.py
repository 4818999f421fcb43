"""Standard evaluation of a dual encoder: zero-shot classification, retrieval, rank variance and embedding geometry.

Read in this order: config, run (datasets to records), embed, then the metrics: ranks, retrieval, rank_variance,
prompts, zero_shot, geometry; results writes what came out.
"""
