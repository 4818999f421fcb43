"""What is learnt from a batch: one declaration an objective.

Read in this order: declaration (what an objective says of itself), contrastive and the four built on it, config (the
recipe's section `loss` and the registry), saved (an objective in a checkpoint), reference (docs/objectives.md).

No module here imports torch when it is imported: a recipe is checked before anything that takes seconds to load.  What
computes is in `training/losses/`.
"""
