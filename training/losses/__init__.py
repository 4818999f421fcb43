"""What objectives are computed with: contrasts, and the kernels that compute their loss tile by tile.

These are functions of named inputs and know nothing of ranks; `training.gather` does.  Read in this order:
loss_inputs, contrast, tiles, softmax, sigmoid, compose; then what stands by itself on them: reverse_kl, circle, queued,
pair_losses and mixture, jaccard.  What names a loss in a recipe is in `training/objectives/`.
"""
