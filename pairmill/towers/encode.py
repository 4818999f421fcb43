"""Texts of true length through open_clip's towers: tokens padded to the longest of the batch -> features.

B texts on this rank, L tokens (the longest of the batch), P positions the tower has, W tower width, D embedding.

A causal tower pooled at a token of the text itself never sees what follows that token, so cutting the padding off is
exact, and attention over 20 tokens costs a fraction of that over 77.  open_clip 3.3 cannot run its causal towers on
fewer tokens than they have positions: `CLIP.encode_text` adds the whole position embedding, and `TextTransformer`
slices that but not its causal mask.  `encode_text` is their forward pass with both sliced, over the same parameters.

Of a batch of web texts the longest has 77 tokens and the median 11, so they are not padded to the longest either.  The
tokens of all texts are packed into one long matrix [T, W], which is all that linear layers and norms need; attention
sees runs of it, each of texts of about one length.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from open_clip.hf_model import HFTextEncoder
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pairmill.errors import IntegrityError
from pairmill.towers.hidden_tokens import Hidden, masked
from pairmill.towers.vl_ffn import through_heads

#: For Hugging Face encoders, which take one rectangle of tokens at a time: tokens of the texts of the first group, at
#: most; each further group is of texts up to twice as long.
_SHORTEST = 8

#: A group of fewer texts than this joins that of longer ones: it would not fill a matrix product.
_FEWEST = 16


class Run(NamedTuple):
    """Texts of one length, consecutive in the long matrix."""

    texts: list[int]  #: rows of the batch
    length: int  #: tokens of each, padding included


class Beside(NamedTuple):
    """Queries that each text has beside its tokens, and that nothing but themselves sees.

    They are the end of the long matrix, text by text in the order of the runs.
    """

    number: int  #: of each text
    visible: list[Tensor]  #: of each run, bool [texts, number, length + number]: which tokens, and which of themselves


def text_tower(model: nn.Module) -> Any:
    """The module that holds the text tower's attributes: `model.text`, or a CLIP, which holds them itself."""
    return getattr(model, "text", model)


def needs_full_length(model: nn.Module) -> bool:
    """Whether tokens must be padded to the context length: where padding, or how much there is, changes the features.

    It does for a tower that reads its last position (SigLIP), that appends a class token after the padding (CoCa), or
    that attends both ways without masking the padding.  It does not for a causal tower pooled at a token of the text,
    and for Hugging Face encoders, which open_clip gives a mask of the padding.
    """
    tower = text_tower(model)
    if isinstance(tower, HFTextEncoder):
        return False
    if getattr(tower, "cls_emb", None) is not None or pool_type(tower) not in ("first", "argmax", "eos"):
        return True
    return tower.attn_mask is None and not getattr(tower, "use_pad_mask", False)


def is_packed(tower: Any) -> bool:
    """Whether it is a causal tower whose texts end where it pools."""
    causal = getattr(tower, "attn_mask", None) is not None and getattr(tower, "cls_emb", None) is None
    return causal and pool_type(tower) in ("argmax", "eos")


def encode_image(model: nn.Module, pixels_BCHW: Tensor) -> Tensor:
    """Features [B, D] of images, not normalised: `model.encode_image`, through the model's heads."""
    tower: Any = model
    return through_heads(model, tower.encode_image(pixels_BCHW, normalize=False), "image")


def encode_text(model: nn.Module, tokens_BL: Tensor) -> Tensor:
    """Features [B, D] of texts, not normalised; equal to `model.encode_text` of the same tokens padded to P.

    They go through the model's heads, if it has any.

    tokens_BL: integer [B, L], 1 <= L <= P, L = P where `needs_full_length`; padded with the tokenizer's `pad_id`.  A
    row of padding only (an unused text slot, which the loss masks) gets finite features, so that zero gradients stay 0.
    Raises IntegrityError for another L.
    """
    return through_heads(model, _tower_text(model, tokens_BL), "text")


def _tower_text(model: nn.Module, tokens_BL: Tensor) -> Tensor:
    tower = text_tower(model)
    if isinstance(tower, HFTextEncoder):
        pad_id = int(tower.config.pad_token_id or 0)
        own_B = (tokens_BL != pad_id).int().flip(1).argmax(1)  # padding after each text; L where there is no text
        used_BL = some_token(tokens_BL, pad_id)
        return in_groups(lambda part: _encode(model, part), used_BL, tokens_BL.shape[1] - own_B)
    length, context_length = tokens_BL.shape[1], int(tower.context_length)
    if length > context_length:
        raise IntegrityError(f"a tokenizer must truncate to the context length: {length} tokens, not {context_length}")
    if needs_full_length(model):
        if length != context_length:
            raise IntegrityError(
                f"texts of this tower must be padded to the context length: {length} tokens, not {context_length}"
            )
        return _encode(model, tokens_BL)
    if tower.attn_mask is None:
        return _encode(model, tokens_BL)  # a TextTransformer with a mask of the padding takes any length
    return pooled(tower, pack_causal(tower, tokens_BL))


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


def in_groups(encode: Callable[[Tensor], Tensor], tokens_BL: Tensor, lengths_B: Tensor) -> Tensor:
    """Encode groups of texts, each cut to its longest, and put the features back into the texts' order."""
    lengths = lengths_B.tolist()
    groups = length_groups(lengths)
    if len(groups) == 1:
        return encode(tokens_BL[:, : max(lengths)])
    parts = [encode(tokens_BL[group, : lengths[group[-1]]]) for group in groups]
    order = torch.tensor([index for group in groups for index in group], device=tokens_BL.device)
    return torch.cat(parts)[order.argsort()]


def pool_type(tower: Any) -> str:
    """How a tower pools, in open_clip's words."""
    # A CLIP keeps its text tower's attributes under other names.
    return str(getattr(tower, "text_pool_type", None) or tower.pool_type)


def _pooled_at(tower: Any, tokens_BL: Tensor) -> Tensor:
    """The position whose output is the text's feature: a causal tower never sees what follows it."""
    kind = pool_type(tower)
    if kind == "first":
        return torch.zeros(len(tokens_BL), dtype=torch.long, device=tokens_BL.device)
    return tokens_BL.argmax(1) if kind == "argmax" else torch.eq(tokens_BL, _end_id(tower)).int().argmax(1)


def _end_id(tower: Any) -> Any:
    return getattr(tower, "text_eos_id", None) or getattr(tower, "eos_id", None)


def _encode(model: Any, tokens_BL: Tensor) -> Tensor:
    features_BD: Tensor = model.encode_text(tokens_BL, normalize=False)
    return features_BD


class Packed(NamedTuple):
    """Texts in one long matrix, after the last block."""

    x_TW: Tensor
    start_B: Tensor  #: where each text begins
    last_B: Tensor  #: the position of each that it is pooled at, which is its last
    beside_BmW: Tensor | None = None  #: what the texts have beside their tokens


def pack_causal(
    tower: Any, tokens_BL: Tensor, hidden: Hidden | None = None, *, beside_mW: Tensor | None = None
) -> Packed:
    """The states of a causal tower, before its last norm.

    hidden: tokens that it does not see.
    beside_mW: embeddings that each text has beside its tokens, at the position that it is pooled at: each sees the
    tokens before that one, and itself.
    """
    last_B = _pooled_at(tower, tokens_BL)  # what follows it is not seen
    runs = runs_of((last_B + 1).tolist(), tokens_BL.shape[1])
    tokens_T = torch.cat([tokens_BL[run.texts, : run.length].flatten() for run in runs])
    dtype = tower.transformer.get_cast_dtype()
    x_TW = tower.token_embedding(tokens_T).to(dtype)
    if hidden is not None:
        where_T = torch.cat([hidden.where[run.texts, : run.length].flatten() for run in runs])
        x_TW = masked(x_TW, hidden._replace(where=where_T))
    places_LW = tower.positional_embedding.to(dtype)
    x_TW = x_TW + torch.cat([places_LW[: run.length].repeat(len(run.texts), 1) for run in runs])
    order = [text for run in runs for text in run.texts]
    tokens, beside = len(x_TW), None
    if beside_mW is not None:
        m = len(beside_mW)
        added_BmW = beside_mW.to(dtype) + places_LW[last_B[order]][:, None]
        x_TW = torch.cat([x_TW, added_BmW.flatten(0, 1)])
        own_mm = torch.eye(m, dtype=torch.bool, device=tokens_BL.device)
        visible = [_visible(last_B[run.texts], run.length, own_mm) for run in runs]
        beside = Beside(m, visible)
    for block in tower.transformer.resblocks:
        if tower.transformer.grad_checkpointing:
            x_TW = checkpoint(_block, block, x_TW, runs, tower.attn_mask, beside, use_reentrant=False)
        else:
            x_TW = _block(block, x_TW, runs, tower.attn_mask, beside)
    back = torch.tensor(order, device=tokens_BL.device).argsort()
    starts = torch.tensor([run.length for run in runs for _ in run.texts]).cumsum(0).roll(1)
    starts[0] = 0
    added_BmW = None if beside is None else x_TW[tokens:].unflatten(0, (-1, beside.number))[back]
    return Packed(x_TW[:tokens], starts.to(tokens_BL.device)[back], last_B, added_BmW)


def _visible(last_G: Tensor, length: int, own_mm: Tensor) -> Tensor:
    """What queries beside the tokens of texts of one run see, bool [texts, m, length + m]."""
    before_GL = torch.arange(length, device=last_G.device) < last_G[:, None]
    own_Gmm = own_mm.expand(len(last_G), -1, -1)
    return torch.cat([before_GL[:, None].expand(-1, len(own_mm), -1), own_Gmm], 2)


def pooled(tower: Any, packed: Packed) -> Tensor:
    """The features [B, D] of packed texts."""
    return project(tower, tower.ln_final(packed.x_TW[packed.start_B + packed.last_B]))


def project(tower: Any, x_W: Tensor) -> Tensor:
    """The tower's projection of [*, W], which some have not."""
    projection = tower.text_projection
    if projection is None:
        return x_W
    projected: Tensor = projection(x_W) if isinstance(projection, nn.Linear) else x_W @ projection
    return projected


def runs_of(lengths: list[int], longest: int) -> list[Run]:
    """Texts by their lengths in tokens -> runs, each of texts padded to one length, `longest` at most.

    Lengths are rounded up to one of four an octave (5, 6, 7, 8, 10, 12, 14, 16, 20, …), so at most a quarter of what is
    computed is padding, and attention over a context of 77 has at most 18 runs to see.
    """
    runs: dict[int, Run] = {}
    for text, length in enumerate(lengths):
        step = 1 << max(0, (length - 1).bit_length() - 3)
        padded = min(-(-length // step) * step, longest)
        runs.setdefault(padded, Run([], padded)).texts.append(text)
    return [runs[length] for length in sorted(runs)]


def _block(block: Any, x_TW: Tensor, runs: list[Run], mask_PP: Tensor, beside: Beside | None) -> Tensor:
    """A block of the transformer over all runs; `ResidualAttentionBlock.forward` where it is open_clip's plain one.

    Only that takes queries beside the tokens.
    """
    if isinstance(block, ResidualAttentionBlock):
        x_TW = x_TW + block.ls_1(_attention(block.attn, block.ln_1(x_TW), runs, beside))
        out_TW: Tensor = x_TW + block.ls_2(block.mlp(block.ln_2(x_TW)))
        return out_TW
    parts = [
        block(x_GLW, attn_mask=mask_PP[: run.length, : run.length]).flatten(0, 1)
        for run, x_GLW in zip(runs, _split(x_TW, runs), strict=True)
    ]
    return torch.cat(parts)


def _attention(attention: nn.MultiheadAttention, x_TW: Tensor, runs: list[Run], beside: Beside | None) -> Tensor:
    """Causal self-attention within each text, and that of the queries beside its tokens."""
    qkv_T = F.linear(x_TW, attention.in_proj_weight, attention.in_proj_bias)
    tokens = sum(len(run.texts) * run.length for run in runs)
    heads = [_heads(qkv_GL, attention.num_heads) for qkv_GL in _split(qkv_T[:tokens], runs)]
    seen = [_flat(F.scaled_dot_product_attention(*qkv, is_causal=True)) for qkv in heads]
    if beside is not None:
        added = torch.split(qkv_T[tokens:], [len(run.texts) * beside.number for run in runs])
        for run, (_, k_GHLE, v_GHLE), qkv, visible in zip(runs, heads, added, beside.visible, strict=True):
            q_GHmE, k_GHmE, v_GHmE = _heads(qkv.view(len(run.texts), beside.number, -1), attention.num_heads)
            keys, values = torch.cat([k_GHLE, k_GHmE], 2), torch.cat([v_GHLE, v_GHmE], 2)
            seen.append(_flat(F.scaled_dot_product_attention(q_GHmE, keys, values, attn_mask=visible[:, None])))
    mixed_TW: Tensor = attention.out_proj(torch.cat(seen))
    return mixed_TW


def _heads(qkv_GL: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """[texts, L, 3 · W] -> queries, keys and values [texts, heads, L, W / heads]."""
    q_GHLE, k_GHLE, v_GHLE = qkv_GL.view(*qkv_GL.shape[:2], 3, heads, -1).permute(2, 0, 3, 1, 4)
    return q_GHLE, k_GHLE, v_GHLE


def _flat(y_GHLE: Tensor) -> Tensor:
    """[texts, heads, L, W / heads] -> [texts · L, W]."""
    return y_GHLE.transpose(1, 2).flatten(0, 1).flatten(1)


def _split(x_TW: Tensor, runs: list[Run]) -> list[Tensor]:
    """Each run's part of the long matrix as [texts, length, W]."""
    parts = torch.split(x_TW, [len(run.texts) * run.length for run in runs])
    return [part.view(len(run.texts), run.length, -1) for part, run in zip(parts, runs, strict=True)]


def some_token(tokens_BL: Tensor, pad_id: int) -> Tensor:
    """Give rows without a token one: a mean over no tokens is 0/0, and NaN times a loss's zero weight is NaN."""
    empty_B = (tokens_BL == pad_id).all(dim=1)
    first_B = torch.where(empty_B, 1 if pad_id == 0 else 0, tokens_BL[:, 0])
    return torch.cat([first_B[:, None], tokens_BL[:, 1:]], dim=1)
