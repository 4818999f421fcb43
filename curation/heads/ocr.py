"""Rendered text: how much of a picture it covers, what it says, and what it has in common with the caption."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from curation.engines.model_files import file_digest
from curation.heads.boxes import LINES, outlines
from curation.heads.onnx_files import open_network
from curation.heads.overlap import overlap
from pairmill.config import Placement, digest
from pairmill.errors import RecipeError, UserError
from pairmill.packages import needed, package_file
from pairmill.registry import NamedConfig

_PACKAGE, _INSTALL = "rapidocr", "pip install 'pairmill[ocr]'"


class OcrConfig(NamedConfig, Placement):
    """Which networks find and read text, and what counts as read."""

    detector: Path | None = Field(
        None,
        description=f"ONNX file of a text detector of PaddleOCR (DB); null: that of {_PACKAGE} (`{_INSTALL}`): "
        "PP-OCRv6 small",
    )
    reader: Path | None = Field(
        None,
        description="ONNX file of a text recogniser of PaddleOCR (CTC), which holds its characters; null: that of "
        f"{_PACKAGE}: PP-OCRv6 small, for Chinese, English, Japanese and other languages in Latin letters",
    )
    size: int = Field(
        640, ge=32, le=4096, description="longer side that pictures are scaled to, pixels; larger finds smaller text"
    )
    min_score: float = Field(
        0.5, ge=0, le=1, description="least mean probability of the characters of a line; others count as no text"
    )


class Ocr:
    """Text in pictures, by RapidOCR: the share of the area that it covers, the `text` itself, and its lines as `boxes`.

    `caption_share` is the share of the caption's words that the picture shows, `text_share` the share of the words
    shown that the caption has; null where there are no such words.  An entry of `embed` may paint over the boxes
    (`mask_text`).
    """

    Config = OcrConfig
    libraries = (
        *("numpy", "onnxruntime", "opencv-python-headless", "pillow", "pyclipper", "rapidocr", "regex", "shapely"),
        "simplejpeg",
    )
    input: Literal["pixels", "embedding"] = "pixels"
    columns = pa.schema(
        [
            ("share", pa.float32()),
            ("text", pa.string()),
            ("caption_share", pa.float32()),
            ("text_share", pa.float32()),
            ("boxes", LINES),
        ]
    )

    @classmethod
    def reads(cls, config: OcrConfig) -> tuple[str, ...]:
        """The text that what is read is compared with."""
        return ("caption",)

    @classmethod
    def revision(cls, config: OcrConfig) -> str:
        """The content of both files.  Raises UserError if one is missing."""
        return digest([file_digest(one) for one in _files(config)])

    @classmethod
    def probe(cls, config: OcrConfig, columns: Mapping[str, pa.DataType]) -> None:
        """Raise UserError for networks that cannot be loaded."""
        cls.load(config)

    @classmethod
    def load(cls, config: OcrConfig) -> Ocr:
        """The networks, on one thread of a CPU, or on a GPU where the installed onnxruntime has CUDA.

        Raises UserError for a file that is missing, that onnxruntime does not load, or that does not say which
        characters it reads.
        """
        detector, reader = _files(config)
        open_network(detector)
        characters = open_network(reader).get_modelmeta().custom_metadata_map
        if "character" not in characters:
            # RapidOCR would fetch a list of characters from the web.
            raise RecipeError(
                "score.NAME.reader must hold the characters that it reads, in its metadata `character`",
                value=f"{reader} has {', '.join(sorted(characters)) or 'no metadata'}",
                fix="convert it with RapidOCR's tools, which add them",
            )
        with needed("onnxruntime"):
            import onnxruntime
        with needed(_PACKAGE):
            from rapidocr import RapidOCR
        session = "EngineConfig.onnxruntime"
        settings = {
            "Global.log_level": "critical",
            "Global.use_cls": False,  # text that stands on its head is rare, and looking for it costs a network
            "Global.text_score": config.min_score,
            "Det.model_path": str(detector),
            "Det.limit_type": "max",
            "Det.limit_side_len": config.size,
            "Rec.model_path": str(reader),
            f"{session}.intra_op_num_threads": 1,
            f"{session}.inter_op_num_threads": 1,
            f"{session}.use_cuda": "CUDAExecutionProvider" in onnxruntime.get_available_providers(),
        }
        return cls(config, RapidOCR(params=settings))

    def __init__(self, config: OcrConfig, engine: Any) -> None:
        self._config, self._engine = config, engine

    def __call__(self, images: pa.Array | pa.ChunkedArray, **more: pa.Array | pa.ChunkedArray) -> pa.Table:
        """The columns; null for an image that cannot be decoded, and what concerns a caption without one."""
        from pairmill.towers.eval_transform import decode

        rows = []
        for image, caption in zip(images, more["caption"].to_pylist(), strict=True):
            data = image.as_py()
            pixels = None if data is None else decode(data)
            rows.append(_NOTHING if pixels is None else self._row(pixels, caption))
        return pa.Table.from_pylist(rows, schema=self.columns)

    def _row(self, pixels: npt.NDArray[np.uint8], caption: str | None) -> dict[str, Any]:
        lines = self._lines(pixels)
        text = "\n".join(line["text"] for line in lines)
        shares = (None, None) if caption is None else overlap(caption, text)
        return {
            "share": _covered(lines),
            "text": text,
            "caption_share": shares[0],
            "text_share": shares[1],
            "boxes": lines,
        }

    def _lines(self, pixels: npt.NDArray[np.uint8]) -> list[dict[str, Any]]:
        """The lines of text in a picture, uint8 RGB [H, W, 3], from top to bottom."""
        from curation.images.resize import scale_to

        height, width = pixels.shape[:2]
        scale = self._config.size / max(height, width)
        high, wide = max(1, round(height * scale)), max(1, round(width * scale))
        found = self._engine(np.ascontiguousarray(scale_to(pixels, wide, high)[..., ::-1]))
        if found.boxes is None:
            return []
        corners = np.clip(np.asarray(found.boxes, np.float64) / [wide, high], 0, 1).astype(np.float32).reshape(-1, 8)
        return [
            {"corners": one.tolist(), "score": float(score), "text": text}
            for one, text, score in zip(corners, found.txts, found.scores, strict=True)
        ]


_NOTHING = dict.fromkeys(Ocr.columns.names)


def _covered(lines: list[dict[str, Any]]) -> float:
    """The share of the picture's area that lines cover, 0-1; where they overlap, once."""
    with needed("shapely"):
        from shapely import Polygon, union_all

    return min(1.0, float(union_all([Polygon(one).convex_hull for one in outlines(lines)]).area))


def _files(config: OcrConfig) -> tuple[Path, Path]:
    """The files of the detector and of the reader.  Raises UserError if one is not given and the package is missing."""
    if find_spec(_PACKAGE) is None:
        raise UserError(
            f"every node must have the package {_PACKAGE} for a head `ocr`",
            value=f"no package {_PACKAGE}",
            fix=_INSTALL,
        )
    folder = package_file(_PACKAGE, "models")
    found = []
    for given, kind in ((config.detector, "det"), (config.reader, "rec")):
        carried = sorted(folder.glob(f"*_{kind}_*.onnx"))
        if given is None and not carried:
            raise UserError(
                f"a head `ocr` without {'detector' if kind == 'det' else 'reader'} must have a release of {_PACKAGE} "
                "that carries it",
                value=f"no *_{kind}_*.onnx in {folder}",
                fix=f"install {_PACKAGE} 3.10, or name the file",
            )
        found.append(given if given is not None else carried[0])
    return found[0], found[1]
