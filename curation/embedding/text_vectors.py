"""Texts to unit vectors of a dual encoder, long ones as the recipe says: cut off, or averaged over windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from curation.embedding.windows import in_windows

if TYPE_CHECKING:
    from curation.embedding.encoders import DualEncoder


def text_vectors(
    encoder: DualEncoder, texts: Sequence[str], long_texts: Literal["truncate", "windows"]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int16]]:
    """The unit vectors of N texts, [N, D], and how many windows each has, [N]: 1 the whole of it; 0 its beginning.

    texts: at least one.  long_texts: as `EmbedConfig.long_texts`.
    """
    given = list(texts)
    if long_texts == "truncate":
        whole = np.where(encoder.too_long(given), 0, 1).astype(np.int16)
        return encoder.texts(given).numpy(), whole
    windows = in_windows(given, encoder.too_long)
    vectors = encoder.texts(windows.texts).numpy()
    sums = np.zeros((len(given), vectors.shape[1]), np.float32)
    np.add.at(sums, windows.of, vectors)
    counts = np.bincount(windows.of, minlength=len(given)).astype(np.int16)
    return sums / np.linalg.norm(sums, axis=1, keepdims=True).clip(1e-12), counts
