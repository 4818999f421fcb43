"""Position embeddings of a text tower for another context length than its weights have.

open_clip interpolates all of them.  Texts of 77 tokens are rare and short ones are not, so the first positions are
learnt well and lose what they learnt: Long-CLIP (Zhang et al. 2024) keeps 20 and stretches the others.

P positions of the weights, L of the model, W width.
"""

from __future__ import annotations

from typing import Any

import torch
from open_clip.model import resize_text_pos_embed
from torch import Tensor

from pairmill.errors import RecipeError
from pairmill.towers.encode import text_tower

#: What open_clip calls it, in its two kinds of models.
_NAMES = ("positional_embedding", "text.positional_embedding")


def fit_positions(state: dict[str, Tensor], model: Any, kept: int) -> None:
    """Change the text position embeddings of a state dict, in place, to the length that a model has.

    kept: 0: open_clip's linear interpolation of all; else as `stretched`.  The position of a class token that is
    appended to texts (CoCa) is kept too.
    Raises RecipeError for weights without such positions, or with too few.
    """
    if kept == 0:
        resize_text_pos_embed(state, model)
        return
    name = next((name for name in _NAMES if name in state), None)
    own = getattr(text_tower(model), "positional_embedding", None)
    if name is None or own is None:
        raise RecipeError(
            "model.kept_positions must be 0 for a text tower whose positions cannot be stretched",
            value=f"{kept}, with a Hugging Face text tower",
            fix="leave it out, and model.context_length within what the tower has",
        )
    last = 1 if getattr(text_tower(model), "cls_emb", None) is not None else 0
    places, length = len(state[name]) - last, len(own) - last
    if kept > min(places - 2, length - 1) and places != length:
        raise RecipeError(
            "model.kept_positions must be below the positions of the model and two below those of the weights",
            value=f"{kept}, of {length} and {places}",
            fix="set a lower number (Long-CLIP: 20)",
        )
    if places != length:
        whole = state[name]
        state[name] = torch.cat([stretched(whole[:places], length, kept), whole[places:]])


def stretched(embedding_PW: Tensor, length: int, kept: int) -> Tensor:
    """The first `kept` positions as they are; position kept + i of L is where kept + i / r was (Long-CLIP).

        r = (L - kept) / (P - kept)

    between two positions linear, beyond the last in the line of the last two.  0 < kept <= P - 2, kept < L.
    """
    rest_PW = embedding_PW[kept:]
    at_L = torch.arange(length - kept, dtype=torch.float64) * (len(rest_PW) / (length - kept))
    below_L = at_L.long().clamp(max=len(rest_PW) - 2)
    share_LW = (at_L - below_L).to(embedding_PW.dtype)[:, None]
    between_LW = rest_PW[below_L] * (1 - share_LW) + rest_PW[below_L + 1] * share_LW
    return torch.cat([embedding_PW[:kept], between_LW])
