"""The decoder of a CoCa model, from pixels and texts to the states that its next tokens are predicted from.

It is `open_clip.CoCa.forward` over the same parameters, up to the projection to the vocabulary: logits of a batch are
gigabytes (256 texts of 76 tokens, 49,408 words: 3.8 GB), and `training.losses.vocabulary` never holds more than a tile.

B images on this rank, K text slots, N = B * K texts, L tokens, W width of the decoder, D embedding, V words.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from open_clip.coca_model import CoCa
from open_clip.hf_model import HFTextEncoder
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pairmill.errors import RecipeError
from pairmill.towers.encode import text_tower
from pairmill.towers.vl_ffn import through_heads

#: A label that is nothing to predict, as torch's `ignore_index`.
NO_LABEL = -100


class Captioned(NamedTuple):
    """Embeddings, not normalised, and what the decoder makes of each text beside its image."""

    image_BD: Tensor  #: as `encode_image`
    text_ND: Tensor  #: as `encode_text`
    states_NLW: Tensor  #: at place l, of the tokens before l; the last ones may be missing, where no text is as long
    label_NL: Tensor  #: int64, the token at place l that the state there predicts; NO_LABEL for none


def has_decoder(model: nn.Module) -> bool:
    """Whether it is a CoCa model."""
    return isinstance(model, CoCa)


def check_decoder(model: nn.Module, why: str) -> None:
    """Raise RecipeError unless the model has a decoder that can learn to caption.  why: who asks for it."""
    if not isinstance(model, CoCa):
        raise RecipeError(
            f"{why} needs a caption decoder: model.architecture must be a CoCa",
            value=f"a {type(model).__name__}",
            fix="choose coca_ViT-B-32 or another CoCa of open_clip, or leave captioning out",
        )
    tower: Any = text_tower(model)
    decoder: Any = model.text_decoder
    if isinstance(tower, HFTextEncoder) or tower.attn_mask is None:
        raise RecipeError(
            f"{why} needs a text tower that must be causal: any other shows the decoder the token to predict",
            value="a Hugging Face encoder" if isinstance(tower, HFTextEncoder) else "text_cfg.no_causal_mask: true",
            fix="choose coca_ViT-B-32 or another CoCa with open_clip's own text tower",
        )
    if decoder.context_length < tower.context_length - 1:
        raise RecipeError(
            f"{why}: the decoder must take the texts that the text tower takes",
            value=f"multimodal_cfg.context_length {decoder.context_length}, of texts {tower.context_length}",
            fix="use a JSON architecture with equal context lengths, or lower model.context_length",
        )


def encode_captions(model: nn.Module, pixels_BCHW: Tensor, tokens_NL: Tensor, there_N: Tensor) -> Captioned:
    """Embeddings of images and texts, and the decoder's states of texts beside their images.

    tokens_NL: the K texts of each image one after the other, padded to the context length.  there_N: bool, a text.
    As in open_clip, every token but the first is predicted, its end too, unless its id is that of padding.
    """
    coca: Any = model
    image_BD, patches_BPW = coca.visual(pixels_BCHW)
    text_ND, words_NLW = coca.text(tokens_NL)
    label_NL = tokens_NL.masked_fill((tokens_NL == coca.text.pad_id) | ~there_N[:, None], NO_LABEL)
    label_NL = torch.cat([torch.full_like(label_NL[:, :1], NO_LABEL), label_NL[:, 1:]], 1)
    # What follows the longest text predicts nothing, and a causal decoder's other states do not depend on it.
    labelled = (label_NL != NO_LABEL).any(0).nonzero()
    longest = int(labelled.max()) if len(labelled) else 1
    texts = len(tokens_NL) // len(pixels_BCHW)
    patches_NPW = patches_BPW.repeat_interleave(texts, 0) if texts > 1 else patches_BPW
    states_NLW = _decoded(coca.text_decoder, words_NLW[:, :longest], patches_NPW)
    image_BD, text_ND = through_heads(model, image_BD, "image"), through_heads(model, text_ND, "text")
    return Captioned(image_BD, text_ND, torch.cat([torch.zeros_like(states_NLW[:, :1]), states_NLW], 1), label_NL)


def _decoded(decoder: Any, words_NLW: Tensor, patches_NPW: Tensor) -> Tensor:
    """`MultimodalTransformer.forward` without its projection."""
    length = words_NLW.shape[1]
    mask_LL = decoder.attn_mask[:length, :length]
    x = words_NLW
    for block, cross in zip(decoder.resblocks, decoder.cross_attn, strict=True):
        if decoder.grad_checkpointing:
            x = checkpoint(block, x, None, None, mask_LL, use_reentrant=False)
            x = checkpoint(cross, x, patches_NPW, patches_NPW, None, use_reentrant=False)
        else:
            x = cross(block(x, attn_mask=mask_LL), k_x=patches_NPW, v_x=patches_NPW)
    states_NLW: Tensor = decoder.ln_final(x)
    return states_NLW
