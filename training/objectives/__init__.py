"""What is learnt from a batch: one declaration an objective.

Read in this order: declaration (what an objective says of itself), contrastive (what most are built on), clip,
one_to_k, per_slot, siglip, label_smoothing, cwcl, momentum, noise_adaptive, sdm, jaccard, circle, distill, lotlip (what
is positive), token_max, token_max_reduced, gram, multilinear, text_words, levels, codebook (other similarities than the
inner product), head_names, align, uniform, cross_uniform, mv_infonce, mv_dhel, mixup, barlow, siam, swav, rafa, hycd,
backward_compatible (of embeddings alone), self_supervised, intra_modal, local_mi (each modality with itself), rocket
(strong views), with_negatives, image_grounded, text_grounded, ema_distill (texts that were written to be wrong),
grouping (patches and texts), denoise, pixpro, masked_image (hidden tokens and patches), prototype (clusters of the
other modality), local_global (views and hidden patches predict an average), captioning (a decoder), composite,
composite_heads and harmonised (an objective with terms added to it), projector (a term with a projection of its own),
mask_tokens (what the model does not see of texts), config (the recipe's section `loss` and the registry), saved (an
objective in a checkpoint), by_name (any objective on plain tensors), reference (docs/objectives.md).

No module here imports torch when it is imported, composite_heads excepted: a recipe is checked before anything that
takes seconds to load.  What computes is in `training/losses/`.
"""

from training.objectives.by_name import loss_by_name

__all__ = ["loss_by_name"]
