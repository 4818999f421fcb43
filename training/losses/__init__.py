"""Contrastive losses: a similarity, a target and any terms, composed by the recipe.

Losses are functions of named inputs and know nothing of ranks; `training.gather` does.  Read in this order: inputs,
registry, targets, softmax, sigmoid, compose.
"""
