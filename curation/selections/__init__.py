"""Selections by name: rows of a run chosen by expressions, quantiles, duplicates, quotas and tops, over narrow columns.

Read in this order: config, expression, chain, uids, decontaminate_rule, ranking, cuts, balance_rule, skew_rule, steps,
whole_run, late, thresholds, stage.
"""
