"""The results of a run: its report, the fate of every row, and the dataset in other forms.

Read in this order: outcome, tallies, throughput, data, figures, page, report, rows, export.
"""
