"""What is learnt from a batch: one declaration an objective.

Read in this order: declaration (what an objective says of itself); contrastive and what is built on it; then those with
other similarities than the inner product (token_max, token_max_reduced, gram, multilinear, text_words, levels,
codebook), of embeddings alone (align to backward_compatible), of each modality with itself, by views and a teacher
(self_supervised, intra_modal, local_mi), of texts that were written to be wrong (with_negatives, image_grounded,
text_grounded, ema_distill), of patches and texts (grouping), of hidden tokens and patches of two views (denoise,
pixpro, masked_image); composite and composite_heads (an objective with terms added to it), config (the recipe's section
`loss` and the registry), saved (an objective in a checkpoint), by_name (`loss_by_name`: any objective on plain
tensors), reference (docs/objectives.md).

No module here imports torch when it is imported, composite_heads excepted: a recipe is checked before anything that
takes seconds to load.  What computes is in `training/losses/`.
"""

from training.objectives.by_name import loss_by_name

__all__ = ["loss_by_name"]
