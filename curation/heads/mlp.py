"""Linear probes and multi-layer perceptrons over embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
from pydantic import Field

from curation.embedding.vectors import vectors_of
from curation.engines.model_files import file_digest
from curation.heads.linear_layers import Floats, Layers, read_layers
from curation.heads.outputs import Output, score_of
from pairmill.errors import RecipeError
from pairmill.registry import NamedConfig

_Features = Literal["image", "text", "pair"]
_Activation = Literal["none", "relu", "gelu"]


class MlpConfig(NamedConfig):
    """Which layers, over which embedding."""

    embedding: str = Field(description="name in the section `embed`")
    weights: Path = Field(description="file of the layers: safetensors, or torch.save of a state dict")
    features: _Features | None = Field(
        None,
        description="what the first layer reads: the vector of the picture, of the caption, or both and their product, "
        "one behind the other (pair); null: what the file says, else image",
    )
    activation: _Activation | None = Field(
        None, description="between layers; null: what the file says, else none, as in LAION's aesthetic predictors"
    )
    output: Output | None = Field(None, description="behind the last layer; null: what the file says, else none")
    index: int = Field(0, ge=0, description="which output is the score")


class Mlp:
    """A linear probe or a multi-layer perceptron over an embedding: LAION's aesthetic predictors, and `fit-filter`'s.

    Layers are read from the file in the order of the numbers in their names.  An embedding of another length than the
    first layer reads is refused.
    """

    Config = MlpConfig
    libraries = ("numpy", "safetensors", "scipy", "torch")
    input: Literal["pixels", "embedding"] = "embedding"
    columns = pa.schema([("score", pa.float32())])

    @classmethod
    def reads(cls, config: MlpConfig) -> tuple[str, ...]:
        """The vectors of captions, which only some files need: which, is known when one is loaded."""
        return (f"text_embedding_{config.embedding}",)

    @classmethod
    def revision(cls, config: MlpConfig) -> str:
        """The content of the file."""
        return f"sha256:{file_digest(config.weights)}"

    @classmethod
    def probe(cls, config: MlpConfig, columns: Mapping[str, pa.DataType]) -> None:
        """Raise RecipeError for a file of no layers, and for layers over another embedding."""
        head = cls.load(config)
        size = getattr(columns.get(f"image_embedding_{config.embedding}"), "list_size", None)
        if size is not None:
            head._check_size(size * (3 if head._features == "pair" else 1))

    @classmethod
    def load(cls, config: MlpConfig) -> Mlp:
        """The layers."""
        return cls(config, read_layers(config.weights))

    def __init__(self, config: MlpConfig, layers: Layers) -> None:
        """Raises RecipeError for an index behind the last output."""
        self._config, self._layers = config, layers
        self._features = config.features or layers.said.get("features", "image")
        self._activation = config.activation or layers.said.get("activation", "none")
        self._output = config.output or layers.said.get("output", "none")
        for key, kind in (("features", _Features), ("activation", _Activation), ("output", Output)):
            if (said := getattr(self, f"_{key}")) not in get_args(kind):
                raise RecipeError(
                    f"the {key} that a file of layers says must be one of {', '.join(get_args(kind))}",
                    value=f"{config.weights}: {said!r}",
                    fix=f"set score.NAME.{key}",
                )
        if config.index >= len(layers.weights[-1]):
            raise RecipeError(
                "score.NAME.index must be that of an output",
                value=f"{config.index}; {config.weights} has {len(layers.weights[-1])}",
                fix="lower it",
            )

    def __call__(self, images: pa.Array | pa.ChunkedArray, **more: pa.Array | pa.ChunkedArray) -> pa.Table:
        """Column `score`; null where a vector that it reads is null."""
        given, mask = self._read(images, more[f"text_embedding_{self._config.embedding}"])
        found = np.full(len(mask), np.nan, np.float32)
        if mask.any():
            found[mask] = self._outputs(given)
        return pa.table([pa.array(found, pa.float32(), mask=~mask)], schema=self.columns)

    def _read(self, images: Any, texts: Any) -> tuple[Floats, Any]:
        if self._features == "pair":
            return pair_features(images, texts)
        vectors, mask = vectors_of(images if self._features == "image" else texts)
        return vectors.astype(np.float32), mask

    def _outputs(self, values: Floats) -> Floats:
        weights, biases = self._layers.weights, self._layers.biases
        self._check_size(values.shape[1])
        for at, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            if at and self._activation != "none":
                values = _ACTIVATIONS[self._activation](values)
            values = values @ weight.T + bias
        return score_of(values, self._config.index, self._output)

    def _check_size(self, given: int) -> None:
        wanted = self._layers.weights[0].shape[1]
        if given != wanted:
            raise RecipeError(
                "score.NAME.weights must be of layers over the embedding that the recipe names",
                value=f"{self._config.weights} reads {wanted} numbers, and embed.{self._config.embedding} "
                f"gives {given}",
                fix="name the embedding of the model that the layers were trained on",
            )


def pair_features(images: pa.Array | pa.ChunkedArray, texts: pa.Array | pa.ChunkedArray) -> tuple[Floats, Any]:
    """[x, y, x·y] of the rows with both vectors, float32 [N, 3D], and the mask of those rows."""
    image, has_image = vectors_of(images)
    text, has_text = vectors_of(texts)
    both = has_image & has_text
    if not both.any():
        return np.zeros((0, 0), np.float32), both
    x = image[both[has_image]].astype(np.float32)
    y = text[both[has_text]].astype(np.float32)
    return np.concatenate([x, y, x * y], axis=1), both


def _gelu(values: Floats) -> Floats:
    from scipy.special import ndtr  # slow to import, and most heads have none

    found: Floats = (values * ndtr(values)).astype(np.float32)
    return found


def _relu(values: Floats) -> Floats:
    return np.maximum(values, np.float32(0))


_ACTIVATIONS = {"relu": _relu, "gelu": _gelu}
