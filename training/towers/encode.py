"""Texts of true length through open_clip's towers: tokens padded to the longest of the batch -> features.

B texts on this rank, L tokens (the longest of the batch), P positions the tower has, W tower width, D embedding.

A causal tower pooled at a token of the text itself never sees what follows that token, so cutting the padding off is
exact, and attention over 20 tokens costs a fraction of that over 77.  open_clip 3.3 cannot run its causal towers on
fewer tokens than they have positions: `CLIP.encode_text` adds the whole position embedding, and `TextTransformer`
slices that but not its causal mask.  `encode_text` is their forward pass with both sliced, over the same parameters.

Of a batch of web texts the longest has 77 tokens and the median 11, so texts are encoded in groups of similar length.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from open_clip.hf_model import HFTextEncoder
from open_clip.transformer import text_global_pool
from torch import Tensor, nn

#: Tokens of the texts of the first group, at most; each further group is of texts up to twice as long.  Padding is then
#: less than half of what is computed, over at most five groups of a context of 77.
_SHORTEST = 8

#: A group of fewer texts than this joins that of longer ones: it would not fill a matrix product.
_FEWEST = 16


def text_tower(model: nn.Module) -> Any:
    """The module that holds the text tower's attributes: `model.text`, or a CLIP, which holds them itself."""
    return getattr(model, "text", model)


def needs_full_length(model: nn.Module) -> bool:
    """Whether tokens must be padded to the context length: where padding, or how much there is, changes the features.

    It does for a tower that reads its last position (SigLIP), that appends a class token behind the padding (CoCa), or
    that attends both ways without masking the padding.  It does not for a causal tower pooled at a token of the text,
    and for Hugging Face encoders, which open_clip gives a mask of the padding.
    """
    tower = text_tower(model)
    if isinstance(tower, HFTextEncoder):
        return False
    if getattr(tower, "cls_emb", None) is not None or _pool_type(tower) not in ("first", "argmax", "eos"):
        return True
    return tower.attn_mask is None and not getattr(tower, "use_pad_mask", False)


def encode_text(model: nn.Module, tokens_BL: Tensor) -> Tensor:
    """Features [B, D] of texts, not normalised; equal to `model.encode_text` of the same tokens padded to P.

    tokens_BL: integer [B, L], 1 <= L <= P, L = P where `needs_full_length`; padded with the tokenizer's `pad_id`.  A
    row of padding only (an unused text slot, which the loss masks) gets finite features, so that zero gradients stay 0.
    """
    tower = text_tower(model)
    if isinstance(tower, HFTextEncoder):
        pad_id = int(tower.config.pad_token_id or 0)
        own_B = (tokens_BL != pad_id).int().flip(1).argmax(1)  # padding behind each text; L where there is no text
        used_BL = _some_token(tokens_BL, pad_id)
        return _in_groups(lambda part: _encode(model, part), used_BL, tokens_BL.shape[1] - own_B)
    length, context_length = tokens_BL.shape[1], int(tower.context_length)
    assert length <= context_length, "the tokenizer truncates to the context length"
    if needs_full_length(model):
        assert length == context_length, "texts of this tower are padded to the context length"
        return _encode(model, tokens_BL)
    if tower.attn_mask is None:
        return _encode(model, tokens_BL)  # a TextTransformer with a mask of the padding takes any length
    return _in_groups(lambda part: _encode_causal(tower, part), tokens_BL, _pooled_at(tower, tokens_BL) + 1)


def length_groups(lengths: list[int]) -> list[list[int]]:
    """Texts by their lengths in tokens -> groups of indices to encode together, shorter texts first."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    groups: list[list[int]] = [[]]
    limit = _SHORTEST
    for index in order:
        while lengths[index] > limit:
            limit *= 2
            if len(groups[-1]) >= _FEWEST:
                groups.append([])
        groups[-1].append(index)
    if len(groups) > 1 and len(groups[-1]) < _FEWEST:
        last = groups.pop()
        groups[-1] += last
    return groups


def _in_groups(encode: Callable[[Tensor], Tensor], tokens_BL: Tensor, lengths_B: Tensor) -> Tensor:
    """Encode groups of texts, each cut to its longest, and put the features back into the texts' order."""
    lengths = lengths_B.tolist()
    groups = length_groups(lengths)
    if len(groups) == 1:
        return encode(tokens_BL[:, : max(lengths)])
    parts = [encode(tokens_BL[group, : lengths[group[-1]]]) for group in groups]
    order = torch.tensor([index for group in groups for index in group], device=tokens_BL.device)
    return torch.cat(parts)[order.argsort()]


def _pool_type(tower: Any) -> str:
    # A CLIP keeps its text tower's attributes under other names.
    return str(getattr(tower, "text_pool_type", None) or tower.pool_type)


def _pooled_at(tower: Any, tokens_BL: Tensor) -> Tensor:
    """The position whose output is the text's feature: nothing behind it is ever seen by a causal tower."""
    kind = _pool_type(tower)
    if kind == "first":
        return torch.zeros(len(tokens_BL), dtype=torch.long, device=tokens_BL.device)
    return tokens_BL.argmax(1) if kind == "argmax" else torch.eq(tokens_BL, _end_id(tower)).int().argmax(1)


def _end_id(tower: Any) -> Any:
    return getattr(tower, "text_eos_id", None) or getattr(tower, "eos_id", None)


def _encode(model: Any, tokens_BL: Tensor) -> Tensor:
    features_BD: Tensor = model.encode_text(tokens_BL, normalize=False)
    return features_BD


def _encode_causal(tower: Any, tokens_BL: Tensor) -> Tensor:
    length = tokens_BL.shape[1]
    dtype = tower.transformer.get_cast_dtype()
    x_BLW = tower.token_embedding(tokens_BL).to(dtype) + tower.positional_embedding[:length].to(dtype)
    x_BLW = tower.transformer(x_BLW, attn_mask=tower.attn_mask[:length, :length])
    pooled_BW: Tensor = text_global_pool(
        tower.ln_final(x_BLW), tokens_BL, _pool_type(tower), eos_token_id=_end_id(tower)
    )
    projection = tower.text_projection
    if projection is None:
        return pooled_BW
    features_BD: Tensor = projection(pooled_BW) if isinstance(projection, nn.Linear) else pooled_BW @ projection
    return features_BD


def _some_token(tokens_BL: Tensor, pad_id: int) -> Tensor:
    """Give rows without a token one: a mean over no tokens is 0/0, and NaN times a loss's zero weight is NaN."""
    empty_B = (tokens_BL == pad_id).all(dim=1)
    first_B = torch.where(empty_B, 1 if pad_id == 0 else 0, tokens_BL[:, 0])
    return torch.cat([first_B[:, None], tokens_BL[:, 1:]], dim=1)
