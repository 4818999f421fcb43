"""What objectives are computed with: contrasts, and the kernels that compute their loss tile by tile.

These are functions of named inputs and know nothing of ranks; `training.gather` does.  Read in this order:
loss_inputs, contrast, tiles, softmax, sigmoid, compose; then what stands by itself on them: reverse_kl, circle, queued,
pair_losses and mixture, jaccard; row_lse, pairs and multi_view (embeddings alone); pair_kernel and pair_contrast with
token_similarity, word_similarity, volume, multilinear_product and codes (other similarities than the inner product),
and token_heads (what learns in them); present and negatives (losses of one direction), memory (queues), hard_negatives,
tokens and grouping.  What names a loss in a recipe is in `training/objectives/`.
"""
