"""How close stored pictures are to a full decode and an area resize, for pairmill and for img2dataset.

    python benchmarks/quality.py        about a minute

The reference is never encoded: OpenCV decodes the whole JPEG and averages areas down to the stored size.  Both store
q95 4:2:0.  The other rows are pairmill with full colour resolution, and its pixels before they are encoded, which show
what decoding at half size costs.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np
import pyarrow.parquet as pq
from contenders import IMAGE, Img2datasetSetting, run_img2dataset, run_pairmill
from photos import photos
from record import WORK, machine, record, table
from server import serve

from curation.images.inspect import inspect_image

#: What the issue asks for, in dB.
BAR_DB = 38.0


def compare(files: Sequence[Path], ours: Path, theirs: Path) -> dict[str, dict[str, float]]:
    """PSNR (dB) and size of the stored pictures of `files`, by who made them.

    ours: a run directory of pairmill.  theirs: an output folder of img2dataset (parquet).
    """
    stored = {"pairmill, as stored": _of_pairmill(ours), "img2dataset, as stored": _of_img2dataset(theirs)}
    chosen = [file for file in files if all(file.name in pictures for pictures in stored.values())]
    found: dict[str, list[tuple[float, int]]] = {name: [] for name in stored}
    others = {
        "pairmill, 4:4:4": IMAGE.model_copy(update={"chroma": "444"}),
        "pairmill, not encoded": IMAGE.model_copy(update={"format": "png"}),
    }
    for file in chosen:
        data = file.read_bytes()
        for name, pictures in stored.items():
            found[name].append(_scored(pictures[file.name], data))
        for name, config in others.items():
            found.setdefault(name, []).append(_scored(inspect_image(data, config, frozenset()).image, data))
    return {name: _summary(scores) for name, scores in found.items()}


def show(compared: Mapping[str, Mapping[str, float]]) -> None:
    """Print the table."""
    table(
        ["against full decode + area resize", "mean dB", "5 % below", "worst", "kB"],
        [[name, s["mean_db"], s["p5_db"], s["min_db"], s["mean_kb"]] for name, s in compared.items()],
    )


def _of_pairmill(run: Path) -> dict[str, bytes]:
    rows = (row for file in sorted((run / "pairs").glob("*.parquet")) for row in pq.read_table(file).to_pylist())
    return _by_file((row["url"], row["image"]["bytes"]) for row in rows)


def _of_img2dataset(out: Path) -> dict[str, bytes]:
    rows = (row for file in sorted(out.glob("*.parquet")) for row in pq.read_table(file).to_pylist())
    return _by_file((row["url"], row["jpg"]) for row in rows)


def _by_file(pairs: Iterable[tuple[str, bytes]]) -> dict[str, bytes]:
    return {urlsplit(url).path.rpartition("/")[2]: image for url, image in pairs}


def _scored(stored: bytes, data: bytes) -> tuple[float, int]:
    """PSNR of a stored picture against the whole source averaged down to its size, and the picture's bytes."""
    picture, whole = (cv2.imdecode(np.frombuffer(d, np.uint8), cv2.IMREAD_COLOR) for d in (stored, data))
    assert picture is not None and whole is not None, "what was stored, and what was served, can be decoded"
    reference = cv2.resize(whole, picture.shape[1::-1], interpolation=cv2.INTER_AREA)
    return cv2.PSNR(picture, reference), len(stored)


def _summary(scores: Sequence[tuple[float, int]]) -> dict[str, float]:
    decibels, sizes = np.array(scores).T
    return {
        "images": len(scores),
        "mean_db": round(float(decibels.mean()), 2),
        "p5_db": round(float(np.percentile(decibels, 5)), 2),
        "min_db": round(float(decibels.min()), 2),
        "mean_kb": round(float(sizes.mean()) / 1000, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=400, help="photographs compared (default 400)")
    wanted = parser.parse_args().images
    files = photos(WORK / "photos", 2000)[:wanted]
    began = machine()
    with serve(WORK / "photos", WORK / "nginx") as server:
        urls = server.urls(files, len(files))
        run_pairmill(urls, WORK / "pairmill", keep=True)
        run_img2dataset(urls, WORK / "img2dataset", Img2datasetSetting(), keep=True)
    compared = compare(files, WORK / "pairmill" / "run", WORK / "img2dataset" / "out")
    show(compared)
    figures: dict[str, Any] = {"psnr": compared, "bar_db": BAR_DB}
    record("quality", figures, began)


if __name__ == "__main__":
    main()
