"""Which rows are duplicates: kinds bring rows together and link them, and of all linked rows one survives.

Read in this order: kinds, edges, equal_values, duplicate_pair, duplicate_image, near_duplicate_image, shingles,
near_duplicate_text, exact_products, small_integers, vector_clusters, semantic_duplicate, narrowing, fitting,
components, families, deduplicate.
"""
