"""The results of a run: its report, the fate of every row, and the dataset in other forms.

Read in this order: outcome, tallies, sketch, throughput, data, withheld, shown_rows, filter_thresholds, score_tally,
duplicate_groups, cluster_sample, cluster_columns, balance_counts, thumbnails, contamination, insights, figures,
insight_figures, page, report, rows, export.
"""
