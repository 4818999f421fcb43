"""Balancing by metadata, as MetaCLIP does: rows whose captions name what many others name stay with a probability.

Read in this order: metadata (lists of entries, and how they are made), matching (which entries a caption names),
balance (from counts to probabilities, and who stays).
"""
