"""A model with its tokenizer and image transform: rows of bytes and strings in, unit embeddings and counts out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pairmill.towers.build import image_statistics
from pairmill.towers.embed import AnyTokenizer, embed_images, embed_texts, embed_tokens, token_ids
from training.evaluate.evaluated_rows import EvaluatedRow
from training.evaluate.merged_pictures import Picture, Pictures

#: Encoded image to uint8 RGB [H, W, 3] of the model's size; None if it cannot be decoded.
Transform = Callable[[bytes], NDArray[np.uint8] | None]


class EncodedRows(NamedTuple):
    """What was used of a dataset.

    image_ND: embeddings of the N images.  same_N: int64, equal for images that are equal to the model.  chosen: what
    `choose` made of each row used.  image_R: the image of each of these rows.  skipped: rows left out, by reason.
    """

    image_ND: Tensor
    same_N: Tensor
    chosen: list[Any]
    image_R: list[int]
    skipped: dict[str, int]


class _Features(NamedTuple):
    """Embeddings of the pictures so far: parts, [n, D] each, and by digest of its pixels the row of each picture."""

    parts: list[Tensor]
    row_of: dict[bytes, int]


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
        return embed_texts(self.model, self.tokenize, texts, **self._how())

    def distinct_texts(self, texts: Sequence[str]) -> tuple[Tensor, list[int]]:
        """Unit embeddings of the texts that differ to the tokenizer, float32 [U, D], and which of these each text has.

        Raises ValueError without any text.
        """
        words = list(dict.fromkeys(texts))
        ids = dict(zip(words, token_ids(self.tokenize, words), strict=True))
        row_of: dict[bytes, int] = {}
        rows = [row_of.setdefault(ids[text].tobytes(), len(row_of)) for text in texts]
        distinct = {row: ids[text] for row, text in zip(rows, texts, strict=True)}
        return embed_tokens(self.model, self.tokenize, list(distinct.values()), **self._how()), rows

    def prompt_sets(self, sets: Iterable[Sequence[str]]) -> list[int]:
        """A number for each set of texts, equal for those of equal texts to the tokenizer."""
        seen: dict[bytes, int] = {}
        found = []
        for texts in sets:
            ids = b"".join(
                hashlib.sha256(np.asarray(row, np.int64).tobytes()).digest() for row in token_ids(self.tokenize, texts)
            )
            found.append(seen.setdefault(hashlib.sha256(ids).digest(), len(seen)))
        return found

    def _how(self) -> dict[str, Any]:
        return {"batch_size": self.batch_size, "device": self.device, "autocast": self.autocast}

    def rows(
        self,
        rows: Iterable[EvaluatedRow],
        choose: Callable[[EvaluatedRow], Any],
        *,
        reason: str,
        max_images: int | None = None,
        merged: bool = False,
    ) -> EncodedRows:
        """Embed the images of all rows that `choose` finds a use for (None: no use, counted as `reason`).

        merged: rows of equal pictures, or of one `group_id`, are one image; the first one's is embedded.
        """
        pictures, batch, embedded = Pictures(merged), list[Picture](), list[Picture]()
        features = _Features([], {})
        skipped = {"corrupt_image": 0, reason: 0}
        with ThreadPoolExecutor(self.decode_threads) as pool:
            for row in rows:
                use = choose(row)
                if use is None:
                    skipped[reason] += 1
                    continue
                picture = pictures.of(row, new=max_images is None or len(embedded) < max_images)
                if picture is None:
                    break
                picture.uses.append(use)
                if len(picture.uses) == 1:
                    batch.append(picture)
                if len(batch) == self.batch_size:
                    embedded += self._embedded(batch, pool, features)
                    batch = []
            if batch:
                embedded += self._embedded(batch, pool, features)
        skipped["corrupt_image"] = sum(len(picture.uses) for picture in pictures.made if picture.corrupt)
        embedded = embedded[:max_images]
        same_N = torch.tensor([picture.same for picture in embedded], dtype=torch.int64, device=self.device)
        return EncodedRows(
            torch.cat(features.parts)[same_N] if features.parts else torch.empty(0, 0),
            same_N,
            [use for picture in embedded for use in picture.uses],
            [number for number, picture in enumerate(embedded) for _ in picture.uses],
            skipped,
        )

    def _embedded(self, batch: list[Picture], pool: ThreadPoolExecutor, features: _Features) -> list[Picture]:
        """The pictures that can be decoded; adds the embeddings of those that are new to `features`."""
        images = list(pool.map(self.transform, [picture.image for picture in batch]))
        for picture, image in zip(batch, images, strict=True):
            picture.image, picture.corrupt = b"", image is None
        new: list[NDArray[np.uint8]] = []
        for picture, image in zip(batch, images, strict=True):
            if image is not None:
                known = len(features.row_of)
                picture.same = features.row_of.setdefault(hashlib.sha256(image.tobytes()).digest(), known)
                new += [image] if picture.same == known else []
        if new:
            mean, std = image_statistics(self.model)
            features.parts.append(
                embed_images(self.model, np.stack(new), mean=mean, std=std, device=self.device, autocast=self.autocast)
            )
        return [picture for picture in batch if not picture.corrupt]
