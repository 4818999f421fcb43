"""Pictures embedded with their text painted over: `embed.NAME.mask_text`."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageDraw, ImageFont
from tiny_encoders import VIT, jpegs, write_open_clip_weights

from curation.embedding.config import EmbedConfig
from curation.embedding.painting import paint_over
from curation.embedding.preparation import Preparation, pixels_of, with_pixels
from curation.embedding.stage import Embed
from curation.embedding.vectors import vectors_of
from curation.flow import Tables, flow_of
from curation.heads.boxes import BOXES, LINES
from curation.stage import Runtime
from pairmill.errors import RecipeError
from pairmill.towers.eval_transform import decode
from pipelines.stages.prepared import PrepareStage, seeing_alike
from pipelines.stages.row_stage import check_work


def corners(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float64)


def line(left: float, top: float, right: float, bottom: float) -> dict[str, Any]:
    return {"corners": corners(left, top, right, bottom).ravel().tolist(), "score": 1.0, "text": "x"}


def test_text_takes_the_colour_around_it() -> None:
    image = Image.new("RGB", (200, 100), (40, 90, 200))
    ImageDraw.Draw(image).rectangle((100, 0, 200, 100), fill=(250, 200, 10))
    plain = np.asarray(image).copy()
    draw = ImageDraw.Draw(image)
    draw.text((12, 30), "left", fill=(255, 255, 255), font=ImageFont.load_default(24))
    draw.text((130, 40), "right", fill=(0, 0, 0), font=ImageFont.load_default(24))
    written = np.asarray(image)
    assert (written != plain).any()
    found = paint_over(written, [corners(0.04, 0.25, 0.35, 0.7), corners(0.62, 0.35, 0.98, 0.8)])
    assert (found == plain).all()
    assert (written == np.asarray(image)).all()


def test_the_colour_is_the_mean_of_the_ring_without_other_text() -> None:
    rng = np.random.default_rng(3)
    pixels = rng.integers(0, 256, (60, 80, 3), np.uint8)
    # Two parts side by side, 16 high: the ring is 4 wide.
    left, right = corners(20 / 80, 20 / 60, 39 / 80, 35 / 60), corners(40 / 80, 20 / 60, 60 / 80, 35 / 60)
    found = paint_over(pixels, [left, right])
    inside = np.zeros((60, 80), bool)
    inside[20:36, 20:61] = True
    ring = np.zeros((60, 80), bool)
    ring[16:40, 16:44] = True
    mean = pixels[ring & ~inside].astype(float).mean(axis=0)
    assert np.abs(found[20:36, 20:40] - mean).max() <= 0.5
    assert (found[~inside] == pixels[~inside]).all()
    assert len(np.unique(found[20:36, 41:61].reshape(-1, 3), axis=0)) == 1


def test_lines_that_stand_askew_are_painted_in_their_own_shape() -> None:
    pixels = np.full((100, 100, 3), 30, np.uint8)
    pixels[50, 50] = 255
    pixels[12, 12] = 200  # in the diamond's rectangle, not in the diamond
    diamond = np.array([[0.5, 0.1], [0.9, 0.5], [0.5, 0.9], [0.1, 0.5]])
    found = paint_over(pixels, [diamond])
    assert found[50, 50].tolist() == [30, 30, 30] and found[12, 12].tolist() == [200, 200, 200]


@pytest.mark.parametrize(
    "parts", [[], [corners(0, 0, 1, 1)], [corners(0, 0, 1, 0.5), corners(0, 0.4, 1, 1)], [corners(0.5, 0.5, 0.5, 0.5)]]
)
def test_any_part_of_a_picture_can_be_painted_over(parts: list[np.ndarray]) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (9, 14, 3), np.uint8)
    found = paint_over(pixels, parts)
    assert found.shape == pixels.shape and found.dtype == np.uint8
    if len(parts) == 1 and parts[0][2, 0] == 1:
        assert np.abs(found[:8, :13] - pixels.reshape(-1, 3).mean(axis=0)).max() <= 0.5
    if not parts:
        assert (found == pixels).all()


def rows(boxes: list[Any], kind: pa.DataType = LINES) -> pa.Table:
    images = jpegs(len(boxes))
    return pa.table(
        {
            "uid": [f"{at:032x}" for at in range(len(boxes))],
            "image": pa.array(images, pa.binary()),
            "caption": ["a red apple"] * len(boxes),
            "words_boxes": pa.array(boxes, kind),
            "drop_stage": pa.nulls(len(boxes), pa.string()),
            "drop_reason": pa.nulls(len(boxes), pa.string()),
        }
    )


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_open_clip_weights(tmp_path_factory.mktemp("weights") / "tiny.pt"))


def embedded(given: pa.Table, weights: str, **keys: Any) -> pa.Table:
    stage = Embed(EmbedConfig(model=str(VIT), pretrained=weights, **keys), "tiny")
    stage.setup(Runtime())
    made = stage(given)
    check_work(stage, given, made)
    return made


def png(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def test_a_masked_score_is_that_of_the_picture_painted_over(weights: str) -> None:
    box = (0.1, 0.2, 0.8, 0.7)
    given = rows([[line(*box)], [], None])
    made = embedded(given, weights, mask_text="words")
    whole = embedded(given, weights)
    seen = decode(given["image"][0].as_py())
    assert seen is not None
    painted = png(paint_over(seen, [corners(*box)]))
    images = pa.array([painted, *given["image"].to_pylist()[1:]], pa.binary())
    expected = embedded(given.set_column(1, "image", images), weights)
    scores = made["score_tiny"].to_pylist()
    assert scores[:2] == pytest.approx(expected["score_tiny"].to_pylist()[:2], abs=1e-6)
    assert scores[0] != pytest.approx(whole["score_tiny"][0].as_py(), abs=1e-4)
    assert scores[1] == pytest.approx(whole["score_tiny"][1].as_py(), abs=1e-6)
    assert scores[2] is None and not made["image_embedding_tiny"][2].is_valid, "nobody looked for its text"
    assert made["text_embedding_tiny"][2].is_valid
    rectangle = dict(zip(("left", "top", "right", "bottom"), box, strict=True)) | {"score": 1.0}
    faces = embedded(rows([[rectangle], [], []], BOXES), weights, mask_text="words")
    assert faces["score_tiny"][0].as_py() == pytest.approx(scores[0], abs=1e-6)


def test_one_decode_gives_both_pictures() -> None:
    given = rows([[line(0.1, 0.2, 0.8, 0.7)], [], None])
    plain, masked = Preparation(32), Preparation(32, boxes="words_boxes")
    made = with_pixels(given, np.array([True, True, False]), [plain, masked])
    assert plain.column != masked.column
    one, other = (made[name].to_pylist() for name in (plain.column, masked.column))
    assert one[0] != other[0] and one[1] == other[1] is not None and one[2] is other[2] is None
    boxes = {"words_boxes": [*given["words_boxes"].to_pylist()[:2], []]}
    (alone, _), (over, _) = pixels_of(given["image"], [plain, masked], boxes)
    assert alone[0].tobytes() == one[0] and over[0].tobytes() == other[0]


def recipe(weights: str, **embed: Any) -> dict[str, Any]:
    model = {"model": str(VIT), "pretrained": weights}
    words = {"name": "ocr", "detector": str(VIT), "reader": str(VIT)}
    return {"embed": {name: {**model, **keys} for name, keys in embed.items()}, "score": {"words": words}}


def test_it_comes_after_the_head_and_before_what_reads_it(weights: str) -> None:
    given = recipe(weights, a_masked={"mask_text": "words"}, plain={})
    good = {"name": "mlp", "embedding": "a_masked", "weights": str(VIT)}
    flow = flow_of({**given, "score": {**given["score"], "good": good}})
    order = [stage.name for stage in flow.segment("score")]
    assert order == ["score-words", "embed-a_masked", "embed-plain", "score-good"]
    assert "words_boxes" in flow.named("embed-a_masked").reads


def test_only_its_own_table_depends_on_what_is_painted_over(weights: str) -> None:
    def keys(**changes: Any) -> dict[str, Any]:
        given = recipe(weights, masked={"mask_text": "words"}, plain={})
        given["score"]["words"] |= changes
        return {t.name: [t.identity, t.upstream] for t in Tables(flow_of(given), selection="default").all}

    before, after = keys(), keys(size=320)
    assert {name for name in before if before[name] != after[name]} == {"columns/score-words"}
    assert "columns/score-words" in before["columns/embed-masked"][1]
    assert "columns/score-words" not in before["columns/embed-plain"][1]
    config = EmbedConfig(model=str(VIT), pretrained=weights)
    assert "mask_text" not in config.identity()
    assert config.identity() != config.model_copy(update={"mask_text": "words"}).identity()


@pytest.mark.parametrize("name", ["word", "masked"])
def test_what_finds_no_boxes_is_refused(name: str, weights: str) -> None:
    given = recipe(weights, masked={"mask_text": name})
    with pytest.raises(RecipeError, match=r"embed\.masked\.mask_text must name an entry of `score` that finds boxes"):
        flow_of(given)
    stage = flow_of(recipe(weights, masked={"mask_text": "words"})).named("embed-masked")
    stage.check({"words_boxes": LINES})
    with pytest.raises(RecipeError, match=r"embed\.masked\.mask_text"):
        stage.check({"words_boxes": pa.string()})


def test_stages_that_need_each_other_are_refused(weights: str) -> None:
    given = recipe(weights, masked={"mask_text": "good"})
    good = {"name": "mlp", "embedding": "masked", "weights": str(VIT)}
    with pytest.raises(RecipeError, match=r"embed\.masked\.mask_text"):
        flow_of({**given, "score": {**given["score"], "good": good}})


def test_pictures_are_prepared_apart_by_what_is_painted_over(weights: str) -> None:
    flow = flow_of(recipe(weights, masked={"mask_text": "words"}, plain={}, third={"mask_text": "words"}))
    tables = Tables(flow, selection="default")
    stages = [stage for stage in flow.segment("score") if isinstance(stage, Embed)]
    groups = seeing_alike(stages)
    assert [[stage.given for stage in group] for group in groups] == [["masked", "third"], ["plain"]]
    given = rows([[line(0.1, 0.2, 0.8, 0.7)], [], None])
    made = given
    for group in groups:
        made = PrepareStage(group, tables)(made)
    for stage in stages:
        stage.setup(Runtime())
        alone, prepared = stage(given), stage(made)
        for name in (f"image_embedding_{stage.given}", f"score_{stage.given}"):
            assert alone[name].equals(prepared[name])
        there = vectors_of(prepared[f"image_embedding_{stage.given}"])[1].tolist()
        assert there == [True, True, stage.given == "plain"]
    uses = [found for group in groups for found in PrepareStage(group, tables).last_uses().values()]
    spent = [column for found in uses for column in found]
    assert sorted(spent) == sorted(name for name in made.schema.names if name.startswith("_pixels"))
