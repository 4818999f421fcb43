"""Places within a picture, as columns: of faces, of text.  Relative, so that they hold whatever size it is shown at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

#: Upright rectangles: edges as shares of the picture's width and height, 0-1, and the detector's score of each.
BOXES = pa.list_(pa.struct([(name, pa.float32()) for name in ("left", "top", "right", "bottom", "score")]))

#: Text: x and y of the four corners of each line, clockwise from the top left of the text, as shares of the picture's
#: width and height, 0-1; how sure the reader is, 0-1; and what it reads.
LINES = pa.list_(pa.struct([("corners", pa.list_(pa.float32(), 8)), ("score", pa.float32()), ("text", pa.string())]))


def outlines(value: Sequence[dict[str, Any]]) -> list[npt.NDArray[np.float64]]:
    """The corners [4, 2], x and y as shares, of each entry of a value of a `BOXES` or a `LINES` column."""
    return [
        np.reshape(one["corners"] if "corners" in one else [one[edge] for edge in _CLOCKWISE], (4, 2)).astype(
            np.float64
        )
        for one in value
    ]


_CLOCKWISE = ("left", "top", "right", "top", "right", "bottom", "left", "bottom")


def boxes_value(edges: npt.NDArray[np.floating], scores: Sequence[float], width: float, height: float) -> list[Any]:
    """Boxes of one picture as a value of a `BOXES` column, cut to the picture; those outside of it are left out.

    edges: [N, 4], left, top, right and bottom in pixels of a picture of width x height.
    """
    size = np.array([width, height, width, height], np.float64)
    found = []
    for box, score in zip(np.clip(edges / size, 0, 1).astype(np.float32).tolist(), scores, strict=True):
        left, top, right, bottom = box
        if right > left and bottom > top:
            found.append({"left": left, "top": top, "right": right, "bottom": bottom, "score": float(score)})
    return found


def area(box: dict[str, float]) -> float:
    """The share of the picture's area that a box covers, 0-1."""
    return (box["right"] - box["left"]) * (box["bottom"] - box["top"])
