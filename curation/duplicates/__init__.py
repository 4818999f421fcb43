"""Which rows show the same: rows that meet become edges, and components of edges leave one survivor.

Read in this order: edges, near, deduplicate.
"""
