"""Filters: one module per kind of rule, `rules` to apply them, and `stage`, the declaration.  Read stage first."""
