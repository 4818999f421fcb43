"""Features of patches and of text tokens, beside those of whole images and texts, through open_clip's towers.

    token = tower's own projection (last layer, after its last norm)

so a token lives in the space of the embeddings, of width D, and goes through the model's heads as they do.  An image's
tokens are its patches, without class tokens.  A text's are those of the text, its start and end among them.  [CLS] of a
Hugging Face tower pooled there is none, nor is the class token of a CoCa's, nor an end that is also the padding, as
SigLIP's is.  What the towers give before their projection comes along.

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
from pairmill.towers.build import image_size
from pairmill.towers.encode import (
    encode_image,
    in_groups,
    is_packed,
    needs_full_length,
    pack_causal,
    pool_type,
    pooled,
    project,
    some_token,
    text_tower,
)
from pairmill.towers.hidden_tokens import Hidden, patches_hidden, patches_kept, words_hidden
from pairmill.towers.vl_ffn import through_heads


class ImageTokens(NamedTuple):
    """Not normalised."""

    image_BD: Tensor  #: as `model.encode_image`
    tokens_BPD: Tensor
    tower_BW: Tensor  #: what was projected to `image_BD`


class TextTokens(NamedTuple):
    """Not normalised."""

    text_BD: Tensor  #: as `encode_text`
    tokens_BLD: Tensor  #: zeros where the mask is false
    mask_BL: Tensor  #: bool, a token of the text
    tower_BW: Tensor  #: what was projected to `text_BD`


class TowerWidths(NamedTuple):
    """Widths of what patches and words are embedded as, W of each tower."""

    image: int
    text: int


def tower_widths(model: nn.Module) -> TowerWidths:
    """Of towers that `check_tokens` takes."""
    visual: Any = model.visual
    image = visual.trunk.embed_dim if isinstance(visual, TimmModel) else visual.conv1.out_channels
    return TowerWidths(int(image), int(_words_of(text_tower(model)).embedding_dim))


def patches_of(model: nn.Module, pixels_BCHW: Tensor) -> Tensor:
    """What each patch of the images shows [B, P, C·h·w], in the order of the tower's tokens, h and w of a patch."""
    height, width = _patch_size(model.visual)
    rows, columns = pixels_BCHW.shape[2] // height, pixels_BCHW.shape[3] // width
    cut = pixels_BCHW[:, :, : rows * height, : columns * width]
    grid = cut.reshape(*cut.shape[:2], rows, height, columns, width)
    return grid.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def pixels_of_patch(model: nn.Module) -> int:
    """C·h·w of `patches_of`."""
    height, width = _patch_size(model.visual)
    return 3 * height * width


def _patch_size(visual: Any) -> tuple[int, int]:
    size = visual.trunk.patch_embed.patch_size if isinstance(visual, TimmModel) else visual.patch_size
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def check_every_patch(model: nn.Module, why: str) -> None:
    """Raise RecipeError if the image tower leaves out patches in training.  why: who asks for all of them."""
    visual: Any = model.visual
    dropout = visual.trunk.patch_drop if isinstance(visual, TimmModel) else visual.patch_dropout
    if share := getattr(dropout, "prob", 0.0):
        raise RecipeError(
            f"{why} needs every patch of an image: model.patch_dropout must be 0",
            value=f"{share}, of the architecture or the recipe",
            fix="set model.patch_dropout to 0, or choose another objective",
        )


def check_tokens(model: nn.Module, why: str, otherwise: str = "another objective", *, texts: bool = True) -> None:
    """Raise RecipeError unless the towers give tokens.

    why: who asks for them.  otherwise: what to choose instead.  texts: of texts too, not of images only.
    """
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
            fix=f"choose a ViT, such as ViT-B-32, or {otherwise}",
        )
    tower = text_tower(model)
    if not texts or isinstance(tower, HFTextEncoder | TextTransformer) or is_packed(tower):
        return
    raise RecipeError(
        f"{why} needs tokens of texts: model.architecture must have a text tower of its own, or one that is pooled at "
        "the end of a text",
        value=f"text_cfg.pool_type: {pool_type(tower)}, custom_text: false",
        fix=f'use a JSON architecture with "custom_text": true, or choose {otherwise}',
    )


def encode_image_tokens(model: nn.Module, pixels_BCHW: Tensor, hidden: Hidden | None = None) -> ImageTokens:
    """Features of images and of their patches.  hidden: patches that the tower does not see."""
    visual: Any = model.visual
    with patches_hidden(visual, hidden):
        found = _timm_tokens(visual, pixels_BCHW) if isinstance(visual, TimmModel) else _vit_tokens(visual, pixels_BCHW)
    image_BD, tokens_BPD = (through_heads(model, x, "image") for x in (found.image_BD, found.tokens_BPD))
    return ImageTokens(image_BD, tokens_BPD, found.tower_BW)


def _vit_tokens(visual: Any, pixels_BCHW: Tensor) -> ImageTokens:
    pooled_BW, tokens_BPW = visual._pool(visual.transformer(visual._embeds(pixels_BCHW)))
    if visual.final_ln_after_pool:
        tokens_BPW = visual.ln_post(tokens_BPW)
    if visual.proj is None:
        return ImageTokens(pooled_BW, tokens_BPW, pooled_BW)
    return ImageTokens(pooled_BW @ visual.proj, tokens_BPW @ visual.proj, pooled_BW)


def encode_images_from_some(model: nn.Module, pixels_BCHW: Tensor, few_B: Tensor, kept_BN: Tensor) -> Tensor:
    """Features of images [B, D], of those in `few_B` (bool) from the patches `kept_BN` alone (their numbers, int64)."""
    few, whole = few_B.nonzero()[:, 0], (~few_B).nonzero()[:, 0]
    parts = [encode_image(model, pixels_BCHW[whole])] if len(whole) else []
    if len(few):
        with patches_kept(model.visual, kept_BN[few]):
            parts.append(encode_image(model, pixels_BCHW[few]))
    return torch.cat(parts)[torch.cat([whole, few]).argsort()]


def encode_text_tokens(
    model: nn.Module, tokens_BL: Tensor, hidden: Hidden | None = None, *, pad_id: int = 0
) -> TextTokens:
    """Features of texts and of their tokens.  tokens_BL: as for `encode_text`.  pad_id: of the tokenizer.

    hidden: tokens that the tower does not see, among those of `TextTokens.mask_BL`.
    A row of padding only gets finite features, and a mask that means nothing.
    Raises IntegrityError for more tokens than the tower has positions.
    """
    found = _text_tokens(text_tower(model), tokens_BL, hidden, pad_id)
    text_BD, tokens_BLD = (through_heads(model, x, "text") for x in (found.text_BD, found.tokens_BLD))
    return _masked(text_BD, tokens_BLD, found.mask_BL, found.tower_BW)


def _text_tokens(tower: Any, tokens_BL: Tensor, hidden: Hidden | None, pad_id: int) -> TextTokens:
    if isinstance(tower, HFTextEncoder):
        return _hugging_face_tokens(tower, tokens_BL, hidden)
    if tokens_BL.shape[1] > int(tower.context_length):
        raise IntegrityError(
            f"a tokenizer must truncate to the context length: {tokens_BL.shape[1]} tokens, not {tower.context_length}"
        )
    if not is_packed(tower):
        return _whole_tokens(tower, tokens_BL, hidden, pad_id)
    packed = pack_causal(tower, tokens_BL, hidden)
    states_TW = tower.ln_final(packed.x_TW)
    states_TD = project(tower, states_TW)
    place_L = torch.arange(tokens_BL.shape[1], device=tokens_BL.device)
    mask_BL = place_L <= packed.last_B[:, None]
    # Where each token of a text is in the long matrix; padding is anywhere, and masked.
    at_BL = packed.start_B[:, None] + torch.minimum(place_L, packed.last_B[:, None])
    tower_BW = states_TW[packed.start_B + packed.last_B]
    return _masked(pooled(tower, packed), states_TD[at_BL], mask_BL, tower_BW)


@torch.no_grad()
def pooled_widths(model: nn.Module) -> tuple[int, int]:
    """The widths Wi and Wt of what the towers give before their projections; encodes an image and a text."""
    training, device = model.training, next(model.parameters()).device
    model.eval()
    try:
        size = image_size(model)
        image = encode_image_tokens(model, torch.zeros(1, 3, size, size, device=device))
        length = int(text_tower(model).context_length) if needs_full_length(model) else 2
        text = encode_text_tokens(model, torch.zeros(1, length, dtype=torch.long, device=device))
    finally:
        model.train(training)
    return image.tower_BW.shape[1], text.tower_BW.shape[1]


def _masked(text_BD: Tensor, tokens_BLD: Tensor, mask_BL: Tensor, tower_BW: Tensor) -> TextTokens:
    tokens_BLD = torch.where(mask_BL[..., None], tokens_BLD, tokens_BLD.new_zeros(()))
    return TextTokens(text_BD, tokens_BLD, mask_BL, tower_BW)


def _whole_tokens(tower: Any, tokens_BL: Tensor, hidden: Hidden | None, pad_id: int) -> TextTokens:
    """Of an open_clip tower that takes texts with their padding: `TextTransformer.forward`."""
    place_L = torch.arange(tokens_BL.shape[1], device=tokens_BL.device)
    # What follows the last token that is no padding; a token of that id within a text is one of the text.
    own_B = torch.where(tokens_BL != pad_id, place_L + 1, 0).amax(1)
    masks = tower.cls_emb is not None or tower.use_pad_mask
    with words_hidden(_words_of(tower), hidden):
        x_BLW, mask = tower._embeds(some_token(tokens_BL, tower.pad_id) if masks else tokens_BL)
    x_BLW = tower.ln_final(tower.transformer(x_BLW, attn_mask=mask))
    if tower.cls_emb is not None:
        pooled_BW, x_BLW = x_BLW[:, -1], x_BLW[:, :-1]
    else:
        pooled_BW = text_global_pool(x_BLW, tokens_BL, tower.pool_type, tower.eos_id)
    return _masked(project(tower, pooled_BW), project(tower, x_BLW), place_L < own_B[:, None], pooled_BW)


def _is_timm_vit(trunk: nn.Module) -> bool:
    from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer

    return isinstance(trunk, TimmVisionTransformer)


def _timm_tokens(visual: Any, pixels_BCHW: Tensor) -> ImageTokens:
    trunk = visual.trunk
    x_BTW = trunk.forward_features(pixels_BCHW)
    tokens_BPW = trunk.fc_norm(x_BTW[:, trunk.num_prefix_tokens :])
    tokens_BPD = visual.head(trunk.head(trunk.head_drop(tokens_BPW)))
    tower_BW = trunk.forward_head(x_BTW, pre_logits=True)
    return ImageTokens(visual.head(trunk.head(tower_BW)), tokens_BPD, tower_BW)


def _words_of(tower: Any) -> Any:
    return tower.transformer.get_input_embeddings() if isinstance(tower, HFTextEncoder) else tower.token_embedding


def _hugging_face_tokens(tower: Any, tokens_BL: Tensor, hidden: Hidden | None) -> TextTokens:
    pad_id = int(tower.config.pad_token_id or 0)
    there_BL = tokens_BL != pad_id
    used_BL = some_token(tokens_BL, pad_id)
    lengths_B = tokens_BL.shape[1] - there_BL.int().flip(1).argmax(1)

    if hidden is not None:
        used_BL = torch.where(hidden.where, -1 - used_BL, used_BL)

    def encode(part_BL: Tensor) -> Tensor:
        """The text's feature, those of its tokens, padded to L, and the unprojected one: [texts, (1 + L) · D + W].

        Hidden tokens are negative.
        """
        part_BL, unseen = torch.where(part_BL < 0, -1 - part_BL, part_BL), part_BL < 0
        mask = (part_BL != tower.config.pad_token_id).long()
        with words_hidden(_words_of(tower), None if hidden is None else hidden._replace(where=unseen)):
            out = tower.transformer(input_ids=part_BL, attention_mask=mask)
        words = tower.proj(out.last_hidden_state)
        pooled_BW = tower.pooler(out, mask)
        padded = F.pad(words, (0, 0, 0, tokens_BL.shape[1] - words.shape[1]))
        return torch.cat([torch.cat([tower.proj(pooled_BW)[:, None], padded], 1).flatten(1), pooled_BW], 1)

    found = in_groups(encode, used_BL, lengths_B)
    if isinstance(tower.pooler, ClsPooler):
        there_BL = there_BL.index_fill(1, there_BL.new_tensor([0], dtype=torch.long), False)
    width = (1 + tokens_BL.shape[1]) * int(tower.output_dim)
    both_BLD = found[:, :width].reshape(len(found), -1, int(tower.output_dim))
    return _masked(both_BLD[:, 0], both_BLD[:, 1:], there_BL, found[:, width:])
