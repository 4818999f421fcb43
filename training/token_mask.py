"""Which tokens of a text are left out of a step: those that say little about its image, as a teacher sees both.

B rows of this rank, K text slots, L tokens of the longest text, D embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from training.losses.drawn import GOLDEN, mixed, signed
from training.model import Features, Rows
from training.objectives.declaration import Objective
from training.objectives.mask_tokens import MaskTokensConfig
from training.token_hiding import inner

#: What a teacher's features have in place of its tokens.
IMPORTANCE = "text_importance"


def with_importance(features: Features) -> Features:
    """A teacher's features with the importance of each token [B, K, L] in place of the tokens, which take D times that.

    e_l = max(0, w_l·x) max(0, w_l·t), of unit vectors w_l of a token, x of the image and t of the text, brought to 0 …
    1 by the smallest and largest of the text's tokens; 1 for its first and last token and where there is none, and for
    all tokens of a text where they are equal.
    """
    asked = dict(features.asked)
    tokens_BKLD, mask_BKL = asked.pop("text_tokens"), inner(asked.pop("text_token_mask"))
    asked.pop("image_tokens")
    near_image = torch.einsum("bkld,bd->bkl", tokens_BKLD, features.image_BD).clamp(min=0)
    near_text = torch.einsum("bkld,bkd->bkl", tokens_BKLD, features.text_BKD).clamp(min=0)
    both_BKL = near_image * near_text
    least = torch.where(mask_BKL, both_BKL, torch.inf).amin(2, keepdim=True)
    most = torch.where(mask_BKL, both_BKL, -torch.inf).amax(2, keepdim=True)
    differ = mask_BKL & (most > least)
    importance = torch.where(differ, (both_BKL - least) / torch.where(most > least, most - least, 1.0), 1.0)
    return features._replace(asked={**asked, IMPORTANCE: importance})


def seen(rows: Rows, importance_BKL: Tensor, objective: Objective, *, pad_id: int) -> Rows:
    """The rows of a step as the model sees them."""
    if objective.token_mask is None:
        return rows
    where = {"seed": objective.setup.seed, "step": objective.when.step}
    return without_noise(rows, importance_BKL, objective.token_mask, pad_id=pad_id, **where)


def without_noise(
    rows: Rows, importance_BKL: Tensor, config: MaskTokensConfig, *, pad_id: int, seed: int, step: int
) -> Rows:
    """The rows whose texts lack tokens, drawn by (seed, step, row, slot, place) and by how little important they are.

    The probability is config.most / (1 + exp(-config.steepness (1 - e - config.threshold))).
    """
    chance = config.most * torch.sigmoid(config.steepness * (1 - importance_BKL.double() - config.threshold))
    # Exactly 1 is what must stay.
    gone = (importance_BKL < 1) & (_uniform(rows, seed, step) < chance)
    # The tokens that stay, in their order, then as much padding as was taken out.
    order = gone.to(torch.int8).argsort(dim=2, stable=True)
    tokens = torch.gather(rows.tokens_BKL.masked_fill(gone, pad_id), 2, order)
    return rows._replace(tokens_BKL=tokens)


def _uniform(rows: Rows, seed: int, step: int) -> Tensor:
    """A number in [0, 1) for each token, float64 [B, K, L]: the same wherever the row is."""
    _, slots, length = rows.tokens_BKL.shape
    slot_K, place_L = (torch.arange(1, size + 1, device=rows.tokens_BKL.device) for size in (slots, length))
    # Not of the length, which is another one on another rank.
    place_KL = (slot_K[:, None] << 32) + place_L
    row_B = mixed(mixed(rows.sample_id_B + signed(GOLDEN * (step + 1))) + seed)
    words = row_B[:, None, None] + signed(GOLDEN) * place_KL
    return (mixed(words).bitwise_right_shift(11) & (2**53 - 1)).double() / 2**53
