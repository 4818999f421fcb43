"""What objectives are computed with: contrasts, and the kernels that compute their loss tile by tile.

These are functions of named inputs and know nothing of ranks; `training.gather` does.  Read in this order:
loss_inputs, contrast, tiles, softmax, sigmoid, compose; then row_lse, pairs, multi_view.  What names a loss in a recipe
is in `training/objectives/`.
loss_inputs, contrast, tiles, softmax, sigmoid, compose.  For similarities other than the dot product: pair_kernel,
pair_contrast, then token_similarity, word_similarity, volume, multilinear_product and codes, and token_heads (what
learns in them).  What names a loss in a recipe is in `training/objectives/`.
"""
