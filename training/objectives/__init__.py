"""What is learnt from a batch: one declaration an objective.

Read in this order: declaration (what an objective says of itself), contrastive and the four built on it,
self_supervised, intra_modal and local_mi (each modality with itself, by views and a teacher), with_negatives,
image_grounded, text_grounded and ema_distill (texts that were written to be wrong), grouping (patches and texts),
denoise, pixpro and masked_image (hidden tokens, patches of two views), composite and composite_heads (an objective with
terms added to it), config (the recipe's section `loss` and the registry), saved (an objective in a checkpoint), by_name
(`loss_by_name`: any objective on plain tensors), reference (docs/objectives.md).

On other similarities than the dot product: token_max, token_max_reduced, gram, multilinear, text_words, levels,
codebook.
Read in this order: declaration (what an objective says of itself), contrastive and what is built on it, composite
and composite_heads (an objective with terms added to it), config (the recipe's section `loss` and the registry), saved
(an objective in a checkpoint), by_name (`loss_by_name`: any objective on plain tensors), reference
(docs/objectives.md).

No module here imports torch when it is imported, composite_heads excepted: a recipe is checked before anything that
takes seconds to load.  What computes is in `training/losses/`.
"""

from training.objectives.by_name import loss_by_name

__all__ = ["loss_by_name"]
