"""Any network in ONNX form that scores pictures, with its preparation declared in the recipe."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from curation.embedding.preparation import Preparation, pixels_of
from curation.engines.model_files import file_digest
from curation.heads.onnx_files import open_network
from curation.heads.outputs import Output, score_of
from pairmill.config import EXECUTION, Placement, digest
from pairmill.errors import RecipeError
from pairmill.registry import NamedConfig

if TYPE_CHECKING:
    import onnxruntime


_Positive = Annotated[float, Field(gt=0)]


class OnnxConfig(NamedConfig, Placement):
    """The network, how its pictures are prepared, and which of its outputs is the score."""

    model: Path = Field(description="the .onnx file, with one input of pictures")
    size: int = Field(ge=1, description="side of the picture that it takes, pixels")
    resize: Literal["shortest", "longest", "squash"] = Field(
        "squash",
        description="shortest: scaled to the shorter side and cut to the centre; longest: to the longer side, and "
        "padded; squash: both sides scaled",
    )
    interpolation: Literal["bilinear", "bicubic"] = Field("bicubic", description="how it is scaled")
    mean: tuple[float, float, float] = Field((0.0, 0.0, 0.0), description="subtracted from channels of 0-1")
    std: tuple[_Positive, _Positive, _Positive] = Field((1.0, 1.0, 1.0), description="what they are divided by then")
    scale: float = Field(1.0, description="what they are multiplied by then; 255 for networks that take 0-255")
    colours: Literal["RGB", "BGR"] = Field("RGB", description="order of the channels; of mean and std too")
    layout: Literal["NCHW", "NHWC"] = Field("NCHW", description="order of the axes")
    output: str | None = Field(None, description="name of the output; null: the first")
    index: int = Field(0, ge=0, description="which number of the output, flattened, is the score")
    activation: Output = Field("none", description="what the output goes through")
    batch_size: int = Field(16, ge=1, description="pictures in one call", json_schema_extra=EXECUTION)


class Onnx:
    """Any network in ONNX form whose input is pictures: watermarks, styles, aesthetics.

    It runs on the CUDA provider where the installed onnxruntime has it, else on one thread of a CPU.
    """

    Config = OnnxConfig
    libraries = ("numpy", "onnxruntime", "pillow", "simplejpeg")
    input: Literal["pixels", "embedding"] = "pixels"
    columns = pa.schema([("score", pa.float32())])

    @classmethod
    def revision(cls, config: OnnxConfig) -> str:
        """The content of the file, and of the files that hold the rest of it.  Raises UserError if one is missing."""
        return digest([file_digest(one) for one in [config.model, *_external(config.model)]])

    @classmethod
    def probe(cls, config: OnnxConfig, columns: Mapping[str, pa.DataType]) -> None:
        """Raise RecipeError for a network that cannot be loaded, or not with these keys."""
        head = cls.load(config)
        head._scores(np.zeros((1, config.size, config.size, 3), np.uint8))

    @classmethod
    def load(cls, config: OnnxConfig) -> Onnx:
        """The network.  Raises RecipeError for a file that onnxruntime does not load, and for an unknown output."""
        return cls(config, open_network(config.model))

    def __init__(self, config: OnnxConfig, session: onnxruntime.InferenceSession) -> None:
        self._config, self._session = config, session
        names = [one.name for one in session.get_outputs()]
        if config.output is not None and config.output not in names:
            raise RecipeError(
                "score.NAME.output must be an output of the network",
                value=config.output,
                fix=f"choose one of {', '.join(names)}",
            )
        self._output = config.output or names[0]
        self._input = session.get_inputs()[0].name
        self._preparation = Preparation(config.size, config.resize, config.interpolation)

    def __call__(self, images: pa.Array | pa.ChunkedArray, **more: pa.Array | pa.ChunkedArray) -> pa.Table:
        """Column `score`; null for an image that cannot be decoded."""
        scores = np.zeros(len(images), np.float32)
        mask = np.zeros(len(images), np.bool_)
        size = self._config.batch_size
        for first in range(0, len(images), size):
            ((pixels, there),) = pixels_of(images[first : first + size], [self._preparation])
            mask[first : first + size] = there
            if len(pixels):
                scores[first : first + size][there] = self._scores(pixels)
        return pa.table([pa.array(scores, pa.float32(), mask=~mask)], schema=self.columns)

    def _scores(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        config = self._config
        values = pixels.astype(np.float32) / np.float32(255)
        if config.colours == "BGR":
            values = values[..., ::-1]
        mean, std = np.asarray(config.mean, np.float32), np.asarray(config.std, np.float32)
        values = (values - mean) / std * np.float32(config.scale)
        if config.layout == "NCHW":
            values = values.transpose(0, 3, 1, 2)
        try:
            out: Any = self._session.run([self._output], {self._input: np.ascontiguousarray(values, np.float32)})[0]
        except Exception as error:  # onnxruntime raises classes of its own, without a common base
            raise RecipeError(
                "score.NAME must prepare pictures as its network takes them: size, layout",
                value=f"{config.model}: {(str(error).splitlines() or [''])[0]}",
                fix="correct size or layout",
            ) from error
        out = np.asarray(out, np.float32).reshape(len(pixels), -1)
        if config.index >= out.shape[1]:
            raise RecipeError(
                "score.NAME.index must be that of a number of the output",
                value=f"{config.index}; {self._output} has {out.shape[1]}",
                fix="lower it",
            )
        return score_of(out, config.index, config.activation)


#: An entry of a tensor's external data in an ONNX file: the key `location`, and the length of its value.
_LOCATION = re.compile(rb"\n\x08location\x12(.)", re.DOTALL)


def _external(model: Path) -> list[Path]:
    """The files beside a model that hold tensors of it; none if it cannot be read."""
    try:
        content = model.read_bytes()
    except (OSError, ValueError):
        return []  # `file_digest` says so
    names = {content[m.end() : m.end() + m[1][0]] for m in _LOCATION.finditer(content)}
    return [model.parent / name.decode("utf-8", "replace") for name in sorted(names)]
