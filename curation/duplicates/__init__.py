"""Which rows show the same: kinds bring rows together and link them, and of all that is linked one row survives.

Read in this order: kinds, edges, equal_values, duplicate_pair, duplicate_image, near_duplicate_image, deduplicate.
"""
