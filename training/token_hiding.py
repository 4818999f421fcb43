"""The need `masked`: which patches and words are hidden from the towers, and what these make of the rest.

    random          the patches that draw the smallest numbers
    like_text       the patches most like the first text of their row, by cosine (SyCoCa, Ma et al. 2024)
    unlike_text     the patches least like it, so that what the text tells of is kept
    words           random, of those between the first and the last token of a text, which are its start and end

A share of n is round(share · n), at least one and, if it can be, not all.  What a token draws is a function of the
run's seed, the step, the row's `sample_id` and the token's place: the same for any number of workers and
micro-batches, on any device, and after a resume.

B rows of this rank, P patches, K text slots, L tokens, W width of a tower, D embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from torch import Tensor, nn

from pairmill.towers.hidden_tokens import Hidden
from pairmill.towers.token_features import TowerWidths, encode_image_tokens, encode_text_tokens
from training.objectives.declaration import Hides

if TYPE_CHECKING:
    from training.model import Rows

#: Numbers below it are the state of the generator.
_RANGE = 2**32

#: Places of a text slot's tokens begin at a multiple of it, after those of patches.
_PLACES = 2**20


class MaskTokens(nn.Module):
    """What the towers see in place of what is hidden: a vector for each, which is learnt."""

    def __init__(self, widths: TowerWidths, hides: Hides) -> None:
        """Drawn from N(0, 0.02²), as BERT's embeddings are.  A tower that nothing is hidden from has none."""
        super().__init__()
        self.hides = hides
        self.image = _vector(widths.image) if hides.image is not None else None
        self.text = _vector(widths.text) if hides.text is not None else None

    def forward(self) -> tuple[Tensor | None, Tensor | None]:
        """New tensors, of images and of texts: at ZeRO stage 3 the parameters are empty outside of this method."""
        image, text = (None if one is None else one.clone() for one in (self.image, self.text))
        return image, text


def _vector(width: int) -> nn.Parameter:
    return nn.Parameter(0.02 * torch.randn(width))


def hidden_tokens(
    model: nn.Module,
    masks: MaskTokens,
    pixels_BCHW: Tensor,
    rows: Rows,
    text: Tensor,
    whole: Mapping[str, Tensor],
    *,
    pad_id: int,
) -> dict[str, Tensor]:
    """The tensors of the need.  text: embeddings [B * K, D].  whole: tokens of the whole input, of the need `tokens`.

    Where nothing is hidden from a tower, or from any (`rows.draw_B` is None), they are those of the whole input.
    """
    image_BPD, text_BKLD, mask_BKL = (whole[n] for n in ("image_tokens", "text_tokens", "text_token_mask"))
    patches_BP, words_BKL = torch.zeros_like(image_BPD[..., 0], dtype=torch.bool), torch.zeros_like(mask_BKL)
    image_mask_W, text_mask_W = masks()
    if rows.draw_B is not None and image_mask_W is not None:
        patches_BP = hidden_patches(masks.hides, rows.draw_B, likeness(image_BPD, text, rows.text_mask_BK))
        found = encode_image_tokens(model, pixels_BCHW, Hidden(patches_BP, image_mask_W)).tokens_BPD
        image_BPD = F.normalize(found.float(), dim=-1)
    if rows.draw_B is not None and text_mask_W is not None:
        words_BKL = hidden_words(masks.hides.text or 0.0, rows.draw_B, mask_BKL)
        hidden = Hidden(words_BKL.flatten(0, 1), text_mask_W)
        found = encode_text_tokens(model, rows.tokens_BKL.flatten(0, 1), hidden, pad_id=pad_id).tokens_BLD
        text_BKLD = F.normalize(found.float(), dim=-1).view(text_BKLD.shape)
    return {
        "masked_image_tokens": image_BPD,
        "image_token_hidden": patches_BP,
        "masked_text_tokens": text_BKLD,
        "text_token_hidden": words_BKL,
    }


@torch.no_grad()
def likeness(patches_BPD: Tensor, text: Tensor, mask_BK: Tensor) -> Tensor:
    """Cosine of each patch, a unit vector, with the first text of its row [B, P].  text: embeddings [B * K, D]."""
    slot_B = mask_BK.int().argmax(1)
    first_BD = text.float().view(*mask_BK.shape, -1)[torch.arange(len(slot_B), device=slot_B.device), slot_B]
    return (patches_BPD * F.normalize(first_BD, dim=-1)[:, None]).sum(2)


def drawn(seed: int, step: int, sample_id_B: Tensor) -> Tensor:
    """The state of each row's generator in a step, int64 [B].  seed: of the run.  sample_id: names rows."""
    low, high = np.random.SeedSequence((seed, step)).generate_state(2, np.uint32).tolist()
    state_B = _mixed((sample_id_B % _RANGE) ^ low)
    return _mixed(state_B ^ _mixed((sample_id_B // _RANGE % _RANGE) ^ high))


def numbers(draw_B: Tensor, places: Tensor) -> Tensor:
    """A random number of each place of each row, int64 [B, *places.shape]."""
    state_B = draw_B.view(-1, *([1] * places.ndim))
    return _mixed(_mixed(state_B ^ _mixed(places + 1)))


def _mixed(state: Tensor) -> Tensor:
    """Numbers below 2^32, scattered: two rounds of xor-shift and multiplication, whose products fit into 63 bits.

    The multipliers and shifts are the best that C. Wellons' hash-prospector found for 32 bits.
    """
    state = (state ^ (state >> 16)) * 0x21F0AAAD % _RANGE
    state = (state ^ (state >> 15)) * 0x735A2D97 % _RANGE
    return state ^ (state >> 15)


def hidden_patches(hides: Hides, draw_B: Tensor, likeness_BP: Tensor) -> Tensor:
    """Which patches are hidden, bool [B, P].  likeness: their cosine with the row's text."""
    share, patches = hides.image or 0.0, likeness_BP.shape[1]
    if hides.patches == "random":
        order_BP = numbers(draw_B, torch.arange(patches, device=draw_B.device))
    else:
        order_BP = -likeness_BP if hides.patches == "like_text" else likeness_BP
    return _first(order_BP, torch.ones_like(order_BP, dtype=torch.bool), share)


def hidden_words(share: float, draw_B: Tensor, mask_BKL: Tensor) -> Tensor:
    """Which tokens of texts are hidden, bool [B, K, L].  mask: which are of a text."""
    rows, slots, length = mask_BKL.shape
    slot_K1, place_L = (torch.arange(n, device=mask_BKL.device) for n in (slots, length))
    order_BKL = numbers(draw_B, _PLACES * (slot_K1[:, None] + 1) + place_L)
    return _first(order_BKL.flatten(0, 1), inner(mask_BKL).flatten(0, 1), share).view(rows, slots, length)


def inner(mask_BKL: Tensor) -> Tensor:
    """The tokens of each text [B, K, L] without its first and its last, which most tokenizers add."""
    number = mask_BKL.cumsum(2)
    return mask_BKL & (number > 1) & (number < number[..., -1:])


def _first(order: Tensor, among: Tensor, share: float) -> Tensor:
    """The share of smallest `order` among those that may be, bool [N, n]; earlier places first where they are equal."""
    count = among.sum(1)
    taken = torch.round(share * count.double()).long().clamp(min=1)
    taken = torch.minimum(taken, (count - 1).clamp(min=1))
    last = torch.iinfo(order.dtype).max if not order.is_floating_point() else torch.inf
    rank = order.masked_fill(~among, last).argsort(dim=1, stable=True).argsort(dim=1)
    return among & (rank < taken[:, None])
