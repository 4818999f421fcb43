"""Filters: one module a kind of rule, `rules` that applies them, and `stage`, the declaration.  Read stage first."""
