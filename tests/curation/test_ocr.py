"""The head `ocr`: text in pictures, and what it has in common with captions."""

from __future__ import annotations

import io
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont
from tiny_onnx import write_mean_network

from curation.flow import flow_of
from curation.heads.boxes import BOXES, LINES, outlines
from curation.heads.ocr import Ocr, OcrConfig, _covered
from curation.heads.overlap import overlap
from curation.heads.stage import Score
from pairmill.errors import RecipeError, UserError

needs_reader = pytest.mark.skipif(find_spec("rapidocr") is None, reason="rapidocr is an extra, `ocr`")


@pytest.mark.parametrize(
    ("caption", "shown", "of_caption", "of_shown"),
    [
        ("Summer sale, now on", "SUMMER\nSALE", 2 / 4, 1.0),
        ("summer sale", "SUMMERSALE", 1.0, 1.0),
        ("summersale", "Summer Sale", 1.0, 1.0),
        ("a red ball", "aredball", 1 / 3, 1.0),  # `a` and `red` are too short to be found within others
        ("the the the cat", "the", 1 / 2, 1.0),
        ("ｆｕｌｌ width", "full", 1 / 2, 1.0),
        ("красный мяч", "МЯЧ 2024", 1 / 2, 1 / 2),
        ("빨간 공", "공", 1 / 2, 1.0),
        ("红苹果", "苹果", 1 / 2, 1.0),  # 红苹, 苹果
        ("红苹果", "果红", 0.0, 0.0),  # the same characters beside others
        ("红 apple", "红", 1 / 2, 1.0),
        ("りんごジュース", "ジュース", 3 / 6, 1.0),
        ("hello", "", 0.0, None),
        ("", "hello", None, 0.0),
        ("… !!", "—", None, None),
    ],
)
def test_what_captions_and_pictures_say_alike(
    caption: str, shown: str, of_caption: float | None, of_shown: float | None
) -> None:
    found = overlap(caption, shown)
    assert found == (
        None if of_caption is None else pytest.approx(of_caption),
        None if of_shown is None else pytest.approx(of_shown),
    )


@given(st.text(max_size=40), st.text(max_size=40))
def test_shares_are_shares_whatever_the_texts(caption: str, shown: str) -> None:
    one, other = overlap(caption, shown)
    assert overlap(shown, caption) == (other, one)
    assert overlap(caption, caption) == ((1.0, 1.0) if one is not None else (None, None))
    for share in (one, other):
        assert share is None or 0 <= share <= 1


def line(*corners: float) -> dict[str, Any]:
    return {"corners": list(corners), "score": 1.0, "text": ""}


def test_what_lines_cover_counts_once() -> None:
    half = line(0, 0, 0.5, 0, 0.5, 1, 0, 1)
    diamond = line(0.5, 0, 1, 0.5, 0.5, 1, 0, 0.5)
    assert _covered([]) == 0
    assert _covered([half]) == pytest.approx(0.5)
    assert _covered([half, half]) == pytest.approx(0.5)
    assert _covered([diamond]) == pytest.approx(0.5)
    assert _covered([half, diamond]) == pytest.approx(0.75)
    assert _covered([line(*[0.3] * 8)]) == 0


def test_corners_of_both_kinds_of_boxes() -> None:
    rectangle = {"left": 0.25, "top": 0.5, "right": 0.75, "bottom": 1.0, "score": 1.0}
    (found,) = outlines(pa.array([[rectangle]], BOXES).to_pylist()[0])
    assert found.tolist() == [[0.25, 0.5], [0.75, 0.5], [0.75, 1.0], [0.25, 1.0]]
    (found,) = outlines(pa.array([[line(*(at / 8 for at in range(8)))]], LINES).to_pylist()[0])
    assert found.tolist() == [[0, 1 / 8], [2 / 8, 3 / 8], [4 / 8, 5 / 8], [6 / 8, 7 / 8]]


def poster(*lines: tuple[str, int, tuple[int, int]], size: tuple[int, int] = (420, 260)) -> Image.Image:
    """A picture with lines of text: what, how high, and where."""
    image = Image.new("RGB", size, (205, 222, 240))
    draw = ImageDraw.Draw(image)
    for text, height, place in lines:
        draw.text(place, text, fill=(25, 20, 60), font=ImageFont.load_default(height))
    return image


def file(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


@pytest.mark.slow
@needs_reader
def test_text_is_read_placed_and_compared() -> None:
    big, small = ("SUMMER SALE", 40, (20, 30)), ("fifty percent", 26, (60, 170))
    turned = poster(("SIDEWAYS", 40, (60, 30)), size=(300, 110)).rotate(90, expand=True)
    noise = np.random.default_rng(1).integers(0, 256, (120, 90, 3), np.uint8)
    images = [file(poster(big, small)), file(poster()), None, b"broken", file(turned), file(Image.fromarray(noise))]
    captions = ["Summer sale: fifty off", "a plain wall", "x", "x", None, ""]
    made = Ocr.load(OcrConfig(name="ocr"))(pa.chunked_array([images], pa.binary()), caption=pa.array(captions))
    assert made.schema == Ocr.columns
    said, plain, missing, broken, sideways, grains = made.to_pylist()
    assert said["text"] == "SUMMER SALE\nfifty percent"
    assert said["caption_share"] == pytest.approx(3 / 4) and said["text_share"] == pytest.approx(3 / 4)
    for found, (text, height, (left, top)) in zip(said["boxes"], (big, small), strict=True):
        box = ImageFont.load_default(height).getbbox(text)
        x, y = found["corners"][0::2], found["corners"][1::2]
        assert min(x) * 420 == pytest.approx(left + box[0], abs=9) and max(x) * 420 == pytest.approx(
            left + box[2], abs=9
        )
        assert min(y) * 260 == pytest.approx(top + box[1], abs=9) and max(y) * 260 == pytest.approx(top + box[3], abs=9)
        assert found["score"] > 0.8
    drawn = [ImageFont.load_default(height).getbbox(text) for text, height, _ in (big, small)]
    assert said["share"] == pytest.approx(sum((b[2] - b[0]) * (b[3] - b[1]) for b in drawn) / (420 * 260), rel=0.5)
    assert plain == {"share": 0.0, "text": "", "caption_share": 0.0, "text_share": None, "boxes": []}
    assert missing == broken == dict.fromkeys(Ocr.columns.names)
    assert sideways["text"] and sideways["share"] > 0.1
    assert sideways["caption_share"] is None and sideways["text_share"] is None
    assert grains["share"] is not None and grains["caption_share"] is None


@pytest.mark.slow
@needs_reader
def test_lines_that_are_not_sure_are_no_text() -> None:
    image = pa.array([file(poster(("hello there", 30, (20, 40))))], pa.binary())
    captions = pa.array(["hello there"])
    (row,) = Ocr.load(OcrConfig(name="ocr", min_score=1.0))(image, caption=captions).to_pylist()
    assert row == {"share": 0.0, "text": "", "caption_share": 0.0, "text_share": None, "boxes": []}


@needs_reader
def test_a_reader_that_does_not_say_its_characters_is_refused(tmp_path: Path) -> None:
    write_mean_network(tmp_path / "means.onnx", 10)
    with pytest.raises(RecipeError, match=r"score\.words\.reader must hold the characters"):
        stage(reader=str(tmp_path / "means.onnx")).probe()
    for key in ("detector", "reader"):
        with pytest.raises(UserError, match="a file of weights must be readable"):
            stage(**{key: "gone.onnx"}).revision()
    before = stage().revision()
    assert before == stage().revision() != stage(detector=str(tmp_path / "means.onnx")).revision()


def stage(**keys: Any) -> Score:
    made = Score(Score.configured({"name": "ocr", **keys}, at="score.words"), "words")
    made.check({})
    return made


def test_its_columns_are_named_after_it() -> None:
    declared = flow_of({"score": {"words": "ocr"}}).named("score-words")
    assert declared.reads == ("image", "caption")
    assert [(one.name, one.carried) for one in declared.adds] == [
        *[("words", True), ("words_text", True), ("words_caption_share", True), ("words_text_share", True)],
        ("words_boxes", False),
    ]


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curation.heads.ocr.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'pairmill\[ocr\]'"):
        stage().revision()
