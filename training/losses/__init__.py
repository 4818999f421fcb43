"""What objectives are computed with: contrasts, and the kernels that compute their loss tile by tile.

These are functions of named inputs and know nothing of ranks; `training.gather` does.  Read in this order: loss_inputs,
contrast, tiles, exponentials, softmax, sigmoid, spread, compose (what `contrastive` needs); row_lse, reverse_kl,
circle_value, queued, mixture, tag_overlap (further targets); pairs, multi_view, refine, drawn, head_losses,
view_projectors, projectors, whole_batch_norm, separate_projector, mixing, backward (of embeddings alone); harmony
(gradients that conflict); pair_kernel and pair_contrast, token_similarity, word_similarity, volume,
multilinear_product, codes, token_heads (other similarities than the inner product, and what learns in them); present
and negatives, memory, hard_negatives, token_grids, patch_grouping, propagation, patch_decoder, self_distillation,
kmeans, vocabulary (of views, tokens, wrong texts, a teacher, clusters or a decoder).  What names a loss in a recipe is
in `training/objectives/`.
"""
