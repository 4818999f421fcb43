"""Faces that are blurred in the product are blurred in the report."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml
from PIL import Image
from run_fixture import make_run

from curation.heads.boxes import BOXES
from curation.results.thumbnails import place, thumbnails
from pairmill.recipe_file import run_recipe
from pairmill.recipe_file import write_recipe as write_run_recipe
from pairmill.store import Store

HALF = {"left": 0.0, "top": 0.0, "right": 0.5, "bottom": 1.0, "score": 1.0}


def noise() -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def pixels_of(uri: str) -> np.ndarray[Any, Any]:
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as image:
        return np.asarray(image.convert("L"), np.float64)


def rows_with_faces(folder: Path) -> tuple[Store, list[dict[str, Any]]]:
    """A run of which the head `face` found a face in row 0, none in row 1, and did not look at row 2."""
    store = make_run(folder, upto="select", rows_per_shard=60)
    images, entry = store.load("images", 0), store.entry("images", 0)
    shown = [at for at, width in enumerate(images["width"].to_pylist()) if width][:3]
    assert entry is not None
    at = images.schema.get_field_index("image")
    made = pa.array([noise() if row in shown else None for row in range(len(images))], pa.binary())
    store.commit("images", 0, entry.key, images.set_column(at, "image", made), store.manifest("images", 0, entry) or {})
    boxes: list[Any] = [None] * len(images)
    boxes[shown[0]], boxes[shown[1]] = [HALF], []
    table = pa.table({"uid": images["uid"], "face_boxes": pa.array(boxes, BOXES)})
    store.commit("columns/score-face", 0, "k", table, {})
    return store, [{"shard": 0, "row": row, "width": 96, "drop_reason": None} for row in shown]


def test_faces_are_blurred_and_pictures_nobody_looked_at_are_left_out(tmp_path: Path) -> None:
    store, entries = rows_with_faces(tmp_path)
    plain = thumbnails(store, entries)
    assert len(plain) == 3
    recipe = dict(run_recipe(store))
    recipe["pack"] = {**recipe["pack"], "blur_faces": "face"}
    write_run_recipe(store, yaml.safe_dump(recipe))
    blurred = thumbnails(store, entries)
    first, second, _ = map(place, entries)
    assert blurred.keys() == {first, second} and blurred[second] == plain[second]
    before, after = pixels_of(plain[first]), pixels_of(blurred[first])
    assert after[:, :40].std() < before[:, :40].std() / 3
    assert abs(after[:, 75:] - before[:, 75:]).mean() < 8
    store.remove_shard("columns/score-face", 0)
    assert thumbnails(store, entries) == {}
