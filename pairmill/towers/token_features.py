"""Features of patches and of text tokens, beside those of whole images and texts, through open_clip's towers.

    token = tower's own projection (last layer, after its last norm)

so a token lives in the space of the embeddings, of width D.  An image's tokens are its patches, without class tokens.
A text's are those of the text, its start and end among them.  [CLS] of a Hugging Face tower pooled there is none, nor
is the class token of a CoCa's, nor an end that is also the padding, as SigLIP's is.

B images or texts on this rank, P patches (those that patch dropout leaves), L tokens, W tower width, D embedding.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from open_clip.hf_model import ClsPooler, HFTextEncoder
from open_clip.timm_model import TimmModel
from open_clip.transformer import TextTransformer, VisionTransformer, text_global_pool
from torch import Tensor, nn

from pairmill.errors import IntegrityError, RecipeError
from pairmill.towers.encode import in_groups, pack_causal, pool_type, pooled, project, some_token, text_tower


class ImageTokens(NamedTuple):
    """Not normalised."""

    image_BD: Tensor  #: as `model.encode_image`
    tokens_BPD: Tensor


class TextTokens(NamedTuple):
    """Not normalised."""

    text_BD: Tensor  #: as `encode_text`
    tokens_BLD: Tensor  #: zeros where the mask is false
    mask_BL: Tensor  #: bool, a token of the text


def check_tokens(model: nn.Module, why: str) -> None:
    """Raise RecipeError unless both towers give tokens.  why: who asks for them."""
    visual: Any = model.visual
    if isinstance(visual, VisionTransformer):
        odd = "pools by attention, after which nothing is of a patch" if visual.attn_pool is not None else None
    elif isinstance(visual, TimmModel):
        odd = None if _is_timm_vit(visual.trunk) else f"is timm's {type(visual.trunk).__name__}"
    else:
        odd = f"is a {type(visual).__name__}"
    if odd is not None:
        raise RecipeError(
            f"{why} needs patches of images: model.architecture must have a vision transformer with a class token or "
            "mean pooling",
            value=f"its image tower {odd}",
            fix="choose a ViT, such as ViT-B-32, or another objective",
        )
    tower = text_tower(model)
    if not (isinstance(tower, HFTextEncoder | TextTransformer) or _is_packed(tower)):
        raise RecipeError(
            f"{why} needs tokens of texts: model.architecture must have a text tower of its own, or one that is pooled "
            "at the end of a text",
            value=f"text_cfg.pool_type: {pool_type(tower)}, custom_text: false",
            fix='use a JSON architecture with "custom_text": true, or choose another objective',
        )


def encode_image_tokens(model: nn.Module, pixels_BCHW: Tensor) -> ImageTokens:
    """Features of images and of their patches."""
    visual: Any = model.visual
    if isinstance(visual, TimmModel):
        return _timm_tokens(visual, pixels_BCHW)
    pooled_BW, tokens_BPW = visual._pool(visual.transformer(visual._embeds(pixels_BCHW)))
    if visual.final_ln_after_pool:
        tokens_BPW = visual.ln_post(tokens_BPW)
    if visual.proj is None:
        return ImageTokens(pooled_BW, tokens_BPW)
    return ImageTokens(pooled_BW @ visual.proj, tokens_BPW @ visual.proj)


def encode_text_tokens(model: nn.Module, tokens_BL: Tensor, pad_id: int = 0) -> TextTokens:
    """Features of texts and of their tokens.  tokens_BL: as for `encode_text`.  pad_id: of the tokenizer.

    A row of padding only gets finite features, and a mask that means nothing.
    Raises IntegrityError for more tokens than the tower has positions.
    """
    tower = text_tower(model)
    if isinstance(tower, HFTextEncoder):
        return _hugging_face_tokens(tower, tokens_BL)
    if tokens_BL.shape[1] > int(tower.context_length):
        raise IntegrityError(
            f"a tokenizer must truncate to the context length: {tokens_BL.shape[1]} tokens, not {tower.context_length}"
        )
    if not _is_packed(tower):
        return _whole_tokens(tower, tokens_BL, pad_id)
    packed = pack_causal(tower, tokens_BL)
    states_TD = project(tower, tower.ln_final(packed.x_TW))
    place_L = torch.arange(tokens_BL.shape[1], device=tokens_BL.device)
    mask_BL = place_L <= packed.last_B[:, None]
    # Where each token of a text is in the long matrix; padding is anywhere, and masked.
    at_BL = packed.start_B[:, None] + torch.minimum(place_L, packed.last_B[:, None])
    return _masked(pooled(tower, packed), states_TD[at_BL], mask_BL)


def _masked(text_BD: Tensor, tokens_BLD: Tensor, mask_BL: Tensor) -> TextTokens:
    return TextTokens(text_BD, torch.where(mask_BL[..., None], tokens_BLD, tokens_BLD.new_zeros(())), mask_BL)


def _is_packed(tower: Any) -> bool:
    """Whether it is a causal tower whose texts end where it pools."""
    causal = getattr(tower, "attn_mask", None) is not None and getattr(tower, "cls_emb", None) is None
    return causal and pool_type(tower) in ("argmax", "eos")


def _whole_tokens(tower: Any, tokens_BL: Tensor, pad_id: int) -> TextTokens:
    """Of an open_clip tower that takes texts with their padding: `TextTransformer.forward`."""
    place_L = torch.arange(tokens_BL.shape[1], device=tokens_BL.device)
    # What follows the last token that is no padding; a token of that id within a text is one of the text.
    own_B = torch.where(tokens_BL != pad_id, place_L + 1, 0).amax(1)
    masks = tower.cls_emb is not None or tower.use_pad_mask
    x_BLW, mask = tower._embeds(some_token(tokens_BL, tower.pad_id) if masks else tokens_BL)
    x_BLW = tower.ln_final(tower.transformer(x_BLW, attn_mask=mask))
    if tower.cls_emb is not None:
        pooled_BW, x_BLW = x_BLW[:, -1], x_BLW[:, :-1]
    else:
        pooled_BW = text_global_pool(x_BLW, tokens_BL, tower.pool_type, tower.eos_id)
    return _masked(project(tower, pooled_BW), project(tower, x_BLW), place_L < own_B[:, None])


def _is_timm_vit(trunk: nn.Module) -> bool:
    from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer

    return isinstance(trunk, TimmVisionTransformer)


def _timm_tokens(visual: Any, pixels_BCHW: Tensor) -> ImageTokens:
    trunk = visual.trunk
    x_BTW = trunk.forward_features(pixels_BCHW)
    tokens_BPW = trunk.fc_norm(x_BTW[:, trunk.num_prefix_tokens :])
    tokens_BPD = visual.head(trunk.head(trunk.head_drop(tokens_BPW)))
    return ImageTokens(visual.head(trunk.forward_head(x_BTW)), tokens_BPD)


def _hugging_face_tokens(tower: Any, tokens_BL: Tensor) -> TextTokens:
    pad_id = int(tower.config.pad_token_id or 0)
    there_BL = tokens_BL != pad_id
    used_BL = some_token(tokens_BL, pad_id)
    lengths_B = tokens_BL.shape[1] - there_BL.int().flip(1).argmax(1)

    def encode(part_BL: Tensor) -> Tensor:
        """The text's feature, then those of its tokens, padded to L: [texts, 1 + L, D]."""
        mask = (part_BL != tower.config.pad_token_id).long()
        out = tower.transformer(input_ids=part_BL, attention_mask=mask)
        words = tower.proj(out.last_hidden_state)
        text = tower.proj(tower.pooler(out, mask))
        return torch.cat([text[:, None], F.pad(words, (0, 0, 0, tokens_BL.shape[1] - words.shape[1]))], 1)

    found = in_groups(encode, used_BL, lengths_B)
    if isinstance(tower.pooler, ClsPooler):
        there_BL = there_BL.index_fill(1, there_BL.new_tensor([0], dtype=torch.long), False)
    return _masked(found[:, 0], found[:, 1:], there_BL)
