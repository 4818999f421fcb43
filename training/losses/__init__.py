"""What objectives are computed with: contrasts, and the kernels that compute their loss tile by tile.

These are functions of named inputs and know nothing of ranks; `training.gather` does.  Read in this order:
loss_inputs, contrast, tiles, softmax, sigmoid, compose; present and negatives (losses of one direction), memory
(queues), hard_negatives, tokens and grouping.  What names a loss in a recipe is in `training/objectives/`.
"""
