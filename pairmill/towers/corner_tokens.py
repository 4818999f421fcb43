"""Corner tokens of a text tower: more features of a text than one, learnt with it (LoTLIP, Wu et al. 2024).

    BERT-like   [CLS] [Cor 0] … [Cor m-1] w_1 … w_n [SEP]      features at [CLS] and at each corner
    causal      [SOT] w_1 … w_n [EOT] [Cor 0] … [Cor m-1]      features at [EOT] and at each corner

A corner sees the tokens of the text and itself, not [CLS] or [EOT], nor another corner; nothing else sees a corner.  It
is pooled and projected by what pools and projects [CLS] or [EOT].  So the tower's own feature is what it is without
corners: an export has none of them, and whoever embeds texts computes none.  A run that starts from an export draws
new ones.

The mask is `corner_mask`: a constant matrix, and which tokens are no padding.  Deviation from the released code: there
corners take positions of the context, so that words lie m positions later; here a corner has the position of [CLS] or
[EOT] beside which it stands, and words keep theirs.

B texts on this rank, m corners, L tokens, W width of the token embedding, D embedding.
"""

from __future__ import annotations

from typing import Any

import torch
from open_clip.hf_model import ClsLastHiddenStatePooler, ClsPooler, HFTextEncoder
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from pairmill.errors import IntegrityError, RecipeError
from pairmill.towers.encode import (
    encode_text,
    in_groups,
    is_packed,
    pack_causal,
    pooled,
    project,
    some_token,
    text_tower,
)
from pairmill.towers.vl_ffn import through_heads

#: Standard deviation of a new token's embedding where a tower names none: open_clip's and BERT's.
_SPREAD = 0.02

#: By how much a feature may differ, relative to its size, where the tower ignores what it must not see.
_SAME = 1e-3


class CornerTokens(nn.Module):
    """The embeddings of m corner tokens, drawn as those of a new token are: N(0, the tower's initializer_range)."""

    def __init__(self, model: nn.Module, count: int) -> None:
        """model: an open_clip model that `check_corners` took."""
        super().__init__()
        tower = text_tower(model)
        if isinstance(tower, HFTextEncoder):
            width, spread = _words(tower).embedding_dim, getattr(tower.config, "initializer_range", _SPREAD)
        else:
            width, spread = tower.token_embedding.embedding_dim, _SPREAD
        self.tokens = nn.Parameter(torch.randn(count, width) * spread)

    def forward(self) -> Tensor:
        """[m, W]: a new tensor, as ZeRO stage 3 empties parameters outside of their modules."""
        return self.tokens.clone()


def corner_mask(there_BL: Tensor, corners: int) -> Tensor:
    """What the tokens of a BERT-like tower see, bool [B, 1 + m + L - 1, the same], corners after the first token.

    there_BL: bool, which tokens, without corners, are no padding.  A row sees itself, whatever the rest says.
    """
    length = there_BL.shape[1] + corners
    base_LL = there_BL.new_ones(length, length)
    base_LL[:, 1 : corners + 1] = False  # nothing sees a corner …
    base_LL[1 : corners + 1, 0] = False  # … and corners do not see [CLS]
    own_LL = torch.eye(length, dtype=torch.bool, device=there_BL.device)
    there_BL = torch.cat([there_BL[:, :1], there_BL.new_ones(len(there_BL), corners), there_BL[:, 1:]], 1)
    return (base_LL & there_BL[:, None]) | own_LL


def encode_text_corners(model: nn.Module, tokens_BL: Tensor, corners_mW: Tensor) -> tuple[Tensor, Tensor]:
    """Features of texts [B, D], as `encode_text`, and of their corners [B, m, D]; not normalised.

    tokens_BL: as for `encode_text`.  Raises IntegrityError for more tokens than the tower has positions.
    """
    text_BD, corners_BmD = _tower_corners(text_tower(model), tokens_BL, corners_mW)
    return through_heads(model, text_BD, "text"), through_heads(model, corners_BmD, "text")


def _tower_corners(tower: Any, tokens_BL: Tensor, corners_mW: Tensor) -> tuple[Tensor, Tensor]:
    if isinstance(tower, HFTextEncoder):
        return _hugging_face_corners(tower, tokens_BL, corners_mW)
    if tokens_BL.shape[1] > int(tower.context_length):
        raise IntegrityError(
            f"a tokenizer must truncate to the context length: {tokens_BL.shape[1]} tokens, not {tower.context_length}"
        )
    packed = pack_causal(tower, tokens_BL, beside_mW=corners_mW)
    return pooled(tower, packed), project(tower, tower.ln_final(packed.beside_BmW))


@torch.no_grad()
def check_corners(model: nn.Module) -> None:
    """Raise RecipeError unless the text tower can have corner tokens.

    A Hugging Face tower is tried: its own feature must be the same with corners and without.
    """
    tower = text_tower(model)
    if not isinstance(tower, HFTextEncoder):
        if not is_packed(tower):
            raise _refused("is not causal and pooled at the end of the text")
        if not all(isinstance(block, ResidualAttentionBlock) for block in tower.transformer.resblocks):
            raise _refused("has blocks that are not open_clip's plain ones")
        return
    if not isinstance(tower.pooler, ClsPooler | ClsLastHiddenStatePooler):
        raise _refused(f"is pooled by {type(tower.pooler).__name__}, not at its first token")
    before = [(module, module.training) for module in tower.modules()]
    tower.eval()
    try:
        unlike = _unlike(model, tower)
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise _refused(f"takes no embeddings with positions and a mask ({type(error).__name__}: {error})") from error
    finally:
        for module, training in before:
            module.training = training
    if unlike:
        raise _refused("does not keep to a mask of pairs of tokens, or to positions")


def _refused(why: str) -> RecipeError:
    return RecipeError(
        "model.corner_tokens must be 0 for a text tower that cannot have any",
        value=f"the text tower {why}",
        fix="choose a causal tower such as ViT-B-32's, or a BERT-like model.text_model that is pooled at [CLS]",
    )


def _unlike(model: nn.Module, tower: Any) -> bool:
    """Whether the feature of a Hugging Face tower changes with corners beside it, or a corner's with another."""
    pad_id, size = int(tower.config.pad_token_id or 0), int(tower.config.vocab_size)
    ids = [number for number in range(min(size, 12)) if number != pad_id]
    tokens = torch.tensor([(ids * 8)[:8], (ids * 8)[1:6] + [pad_id] * 3], device=_words(tower).weight.device)
    corners_mW = torch.randn(2, _words(tower).embedding_dim, generator=torch.Generator().manual_seed(0))
    corners_mW = corners_mW.to(_words(tower).weight)
    text_BD, both_BmD = encode_text_corners(model, tokens, corners_mW)
    _, first_BmD = encode_text_corners(model, tokens, corners_mW[:1])
    pairs = ((text_BD, encode_text(model, tokens)), (both_BmD[:, :1], first_BmD))
    return any((found - own).abs().max() > _SAME * own.abs().max() for found, own in pairs)


def _words(tower: Any) -> nn.Embedding:
    embedding: nn.Embedding = tower.transformer.get_input_embeddings()
    return embedding


def _hugging_face_corners(tower: Any, tokens_BL: Tensor, corners_mW: Tensor) -> tuple[Tensor, Tensor]:
    pad_id, m = int(tower.config.pad_token_id or 0), len(corners_mW)
    lengths_B = tokens_BL.shape[1] - (tokens_BL != pad_id).int().flip(1).argmax(1)
    # RoBERTa counts positions from after its padding id.
    before = getattr(tower.transformer.embeddings.position_embeddings, "padding_idx", None)
    first = 0 if before is None else before + 1

    def encode(part_BL: Tensor) -> Tensor:
        """The features of texts, then of their corners, [texts, 1 + m, D]."""
        words_BLW = _words(tower)(part_BL)
        added_BmW = corners_mW.to(words_BLW.dtype).expand(len(part_BL), -1, -1)
        there_BL = part_BL != pad_id
        place_L = first + torch.arange(part_BL.shape[1], device=part_BL.device)
        out = tower.transformer(
            inputs_embeds=torch.cat([words_BLW[:, :1], added_BmW, words_BLW[:, 1:]], 1),
            attention_mask=_added(corner_mask(there_BL, m), words_BLW.dtype),
            position_ids=torch.cat([place_L[:1].expand(1 + m), place_L[1:]])[None],
        )
        # The pooler takes the first token of a sequence.
        states = out.last_hidden_state[:, : 1 + m].flatten(0, 1)[:, None]
        own = None if getattr(out, "pooler_output", None) is None else tower.transformer.pooler(states)
        pooled_D: Tensor = tower.proj(tower.pooler(BaseModelOutputWithPooling(states, own), None))
        return pooled_D.view(len(part_BL), 1 + m, -1)

    found = in_groups(encode, some_token(tokens_BL, pad_id), lengths_B)
    return found[:, 0], found[:, 1:]


def _added(visible_BLL: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask as what is added to logits, [B, 1, L, L]: eager and fused attention both take that."""
    return torch.zeros_like(visible_BLL, dtype=dtype).masked_fill(~visible_BLL, torch.finfo(dtype).min)[:, None]
