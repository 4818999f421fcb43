"""Pixels and texts to unit embeddings, batch by batch, without gradient.

Shapes: B images or texts of a batch, H×W pixels, L tokens, N all of them, D embedding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize

from pairmill.towers.encode import encode_image, encode_text, needs_full_length


class AnyTokenizer(Protocol):
    """What embedding texts needs of a tokenizer; `pairmill.towers.tokenizer.Tokenizer` is one."""

    pad_id: int
    context_length: int

    def __call__(self, texts: list[str]) -> Sequence[NDArray[np.integer[Any]]]:
        """Unpadded token ids (int, 1-d each), start and end tokens included."""
        ...


@torch.inference_mode()
def embed_images(
    model: nn.Module,
    images_BHWC: NDArray[np.uint8],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device | str = "cpu",
    autocast: torch.dtype | None = None,
) -> Tensor:
    """One batch of uint8 RGB images to unit embeddings, float32 [B, D] on `device`.

    Pixels become (uint8 / 255 - mean) / std, mean and std being the model's, a number a channel.
    autocast: the dtype to compute in; None: that of the weights.
    """
    device = torch.device(device)
    pixels = torch.from_numpy(images_BHWC).to(device).permute(0, 3, 1, 2).float().div_(255)
    pixels = pixels.sub_(torch.tensor(mean, device=device)[:, None, None])
    pixels = pixels.div_(torch.tensor(std, device=device)[:, None, None])
    if autocast is None:
        pixels = pixels.to(next(model.parameters()).dtype)
    with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
        features_BD = encode_image(model, pixels)
    return normalize(features_BD.float(), dim=-1)


@torch.inference_mode()
def embed_texts(
    model: nn.Module,
    tokenize: AnyTokenizer,
    texts: Sequence[str],
    *,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    autocast: torch.dtype | None = None,
) -> Tensor:
    """Texts to unit embeddings, float32 [N, D] on `device`, in the order given.

    Batches hold texts of similar length, each padded to its longest, or to the context where the tower needs that.
    Raises ValueError without any text.
    """
    if not len(texts):
        raise ValueError("texts must not be empty")
    return embed_tokens(
        model, tokenize, token_ids(tokenize, texts), batch_size=batch_size, device=device, autocast=autocast
    )


def token_ids(tokenize: AnyTokenizer, texts: Sequence[str]) -> list[NDArray[np.integer[Any]]]:
    """The ids of each text, some texts at a time."""
    return [row for first in range(0, len(texts), 4096) for row in tokenize(list(texts[first : first + 4096]))]


@torch.inference_mode()
def embed_tokens(
    model: nn.Module,
    tokenize: AnyTokenizer,
    ids: Sequence[NDArray[np.integer[Any]]],
    *,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    autocast: torch.dtype | None = None,
) -> Tensor:
    """As `embed_texts`, of the ids that `tokenize` gave for at least one text."""
    device = torch.device(device)
    order = np.argsort([len(row) for row in ids], kind="stable")
    pad_to = tokenize.context_length if needs_full_length(model) else None
    features = []
    for first in range(0, len(order), batch_size):
        rows = [ids[i] for i in order[first : first + batch_size]]
        tokens_BL = np.full((len(rows), pad_to or max(1, *map(len, rows))), tokenize.pad_id, dtype=np.int64)
        for b, row in enumerate(rows):
            tokens_BL[b, : len(row)] = row
        with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
            features_BD = encode_text(model, torch.from_numpy(tokens_BL).to(device))
        features.append(normalize(features_BD.float(), dim=-1))
    in_order = torch.empty(len(order), dtype=torch.int64, device=device)
    in_order[torch.from_numpy(order).to(device)] = torch.arange(len(order), device=device)
    return torch.cat(features)[in_order]


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode; afterwards every module is in the mode it was in (locked towers stay locked)."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training
