"""Small real datasets for the tests of training/data: pictures that are encoded for real, on disk in every layout."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg
from numpy.typing import NDArray

from training.data.augment import TrainTransform
from training.data.bundle import Reader
from training.data.config import Slot, TextSelector
from training.data.sample import Source


def picture(seed: int, height: int = 40, width: int = 48, detail: int = 6) -> NDArray[np.uint8]:
    """Smooth colours, like a photo out of focus: what survives JPEG and scaling."""
    coarse = np.random.default_rng(seed).integers(0, 256, (detail, detail, 3), np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def jpeg(seed: int, height: int = 40, width: int = 48, quality: int = 92, detail: int = 6) -> bytes:
    data: bytes = simplejpeg.encode_jpeg(picture(seed, height, width, detail), quality, "RGB", "420")
    return data


def uid(row: int) -> str:
    """32 hex digits, all alike in how they vary, as those of a digest."""
    return f"{(row + 1) * 0x9E3779B97F4A7C15 % 2**64:016x}{row:016x}"


def text_rows(n: int) -> list[list[dict[str, str]]]:
    return [
        [
            {"text": f"alt {row}", "language": "en", "kind": "alt"},
            {"text": f"一张图 {row}", "language": "zh", "kind": "translated"},
            {"text": f"First of {row}. Second of {row}. Third.", "language": "en", "kind": "long"},
        ]
        for row in range(n)
    ]


def write_parquet(
    path: Path, n: int, *, row_group: int = 10, first: int = 0, spoil: dict[int, bytes | None] | None = None
) -> Path:
    """n rows as our own pairs hold them; spoil: row -> what its image is instead."""
    images = [(spoil or {}).get(row, jpeg(first + row)) for row in range(n)]
    table = pa.table(
        {
            "uid": [uid(first + row) for row in range(n)],
            "image": [{"bytes": image, "path": None} for image in images],
            "texts": text_rows(n),
            "sha256": [uid(first + row) * 2 for row in range(n)],
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=row_group)
    return path


def write_tar(path: Path, samples: Sequence[tuple[str, dict[str, bytes]]]) -> Path:
    """samples: (key, ending -> content)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, members in samples:
            for ending, content in members.items():
                header = tarfile.TarInfo(f"{key}.{ending}")
                header.size = len(content)
                tar.addfile(header, io.BytesIO(content))
    return path


def as_json(facts: dict[str, Any]) -> bytes:
    return json.dumps(facts).encode()


def tokenizer() -> Callable[[list[str]], list[list[int]]]:
    """Start, one id a character, end.  Made here, so that it is pickled by value: workers need not import the tests."""

    def tokenize(texts: list[str]) -> list[list[int]]:
        return [[1, *(3 + ord(c) % 90 for c in text), 2] for text in texts]

    return tokenize


ANY_TEXT: Slot = (TextSelector(),)


def reader_of(sources: Sequence[Source], *, slots: tuple[Slot, ...] = (ANY_TEXT,), size: int = 16) -> Reader:
    return Reader(tuple(sources), TrainTransform(size), slots, tokenizer(), seed=5)
