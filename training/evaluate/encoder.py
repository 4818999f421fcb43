"""A model with its tokenizer and image transform: rows of bytes and strings in, unit embeddings and counts out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.evaluate.embed import embed_images, embed_texts
from training.evaluate.evaluated_rows import EvaluatedText
from training.towers.build import image_statistics
from training.towers.encode import encode_text, needs_full_length


class AnyTokenizer(Protocol):
    """What evaluation needs of a tokenizer; `training.towers.tokenizer.Tokenizer` is one."""

    pad_id: int
    context_length: int

    def __call__(self, texts: list[str]) -> Sequence[NDArray[np.integer[Any]]]: ...


#: Encoded image to uint8 RGB [H, W, 3] of the model's size; None if it cannot be decoded.
Transform = Callable[[bytes], NDArray[np.uint8] | None]


class EncodedRows(NamedTuple):
    """What was used of a dataset: N images, what `choose` made of the texts of each, and rows left out by reason."""

    image_ND: Tensor
    chosen: list[Any]
    skipped: dict[str, int]


@dataclass(frozen=True)
class Encoder:
    """A model with everything that stands between it and bytes and strings."""

    model: nn.Module
    tokenize: AnyTokenizer
    transform: Transform
    device: torch.device
    autocast: torch.dtype | None
    batch_size: int
    decode_threads: int

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Unit embeddings, float32 [len(texts), D]."""
        return embed_texts(
            lambda tokens_BL: encode_text(self.model, tokens_BL),
            self.tokenize,
            texts,
            pad_id=self.tokenize.pad_id,
            pad_to=self.tokenize.context_length if needs_full_length(self.model) else None,
            batch_size=self.batch_size,
            device=self.device,
            autocast=self.autocast,
        )

    def rows(
        self,
        rows: Iterable[tuple[bytes, list[EvaluatedText]]],
        choose: Callable[[list[EvaluatedText]], Any],
        *,
        reason: str,
        max_images: int | None = None,
    ) -> EncodedRows:
        """Embed the images of all rows that `choose` finds a use for (None: no use, counted as `reason`)."""
        mean, std = image_statistics(self.model)
        features: list[Tensor] = []
        kept: list[Any] = []
        skipped = {"corrupt_image": 0, reason: 0}
        with ThreadPoolExecutor(self.decode_threads) as pool:
            for batch in _batches(_usable(rows, choose, skipped, reason), self.batch_size):
                images = list(pool.map(self.transform, [image for image, _ in batch]))
                good = [(image, use) for image, (_, use) in zip(images, batch, strict=True) if image is not None]
                skipped["corrupt_image"] += len(batch) - len(good)
                good = good[: None if max_images is None else max_images - len(kept)]
                if good:
                    pixels_BHWC = np.stack([image for image, _ in good])
                    features.append(
                        embed_images(
                            self.model, pixels_BHWC, mean=mean, std=std, device=self.device, autocast=self.autocast
                        )
                    )
                    kept += [use for _, use in good]
                if max_images is not None and len(kept) >= max_images:
                    break
        return EncodedRows(torch.cat(features) if features else torch.empty(0, 0), kept, skipped)


def _usable(
    rows: Iterable[tuple[bytes, list[EvaluatedText]]],
    choose: Callable[[list[EvaluatedText]], Any],
    skipped: dict[str, int],
    reason: str,
) -> Iterator[tuple[bytes, Any]]:
    for image, texts in rows:
        use = choose(texts)
        if use is None:
            skipped[reason] += 1
        else:
            yield image, use


def _batches(items: Iterable[tuple[bytes, Any]], size: int) -> Iterator[list[tuple[bytes, Any]]]:
    batch: list[tuple[bytes, Any]] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
