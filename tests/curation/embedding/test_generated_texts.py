"""Texts that models wrote, embedded and scored beside the pictures' vectors."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tiny_encoders import VIT, jpegs, write_open_clip_weights

from curation.embedding.config import EmbedConfig
from curation.embedding.generated_texts import EmbedTexts
from curation.embedding.preparation import Preparation
from curation.embedding.stage import Embed
from curation.embedding.vectors import vector_column, vectors_of
from curation.flow import Flow, flow_of
from curation.heads.boxes import BOXES
from curation.recaption import RECAPTION
from curation.reuse import decided_by, restored, to_be_made, with_made_from, work_again
from curation.schema import set_columns
from curation.stage import Runtime
from curation.translate import TRANSLATION
from pairmill.table_files import parquet_bytes
from pipelines.doctor import project_root
from pipelines.stages.row_stage import check_work

CAPTION, MADE = "a red apple", "written_embedding_tiny"
MODELS = project_root() / "samples" / "models"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_open_clip_weights(tmp_path_factory.mktemp("weights") / "tiny.pt"))


def written(
    recaptions: Sequence[Sequence[str | None]],
    translations: Sequence[Sequence[str | None]] | None = None,
    dropped: tuple[int, ...] = (),
) -> dict[str, Any]:
    """The columns of rows: new captions, and translations (None: one that failed its checks) if there are any."""
    where = [("select" if at in dropped else None) for at in range(len(recaptions))]
    columns: dict[str, Any] = {
        "uid": [f"{at:032x}" for at in range(len(recaptions))],
        "caption": [CAPTION] * len(recaptions),
        "recaptions": pa.array(
            [[{"text": t, "kind": "short"} for t in row] for row in recaptions], pa.list_(RECAPTION)
        ),
        "drop_stage": pa.array(where, pa.string()),
        "drop_reason": pa.array(where, pa.string()),
    }
    if translations is not None:
        made = [[{"text": text, "language": "zh"} for text in row] for row in translations]
        columns["translations"] = pa.array(made, pa.list_(TRANSLATION))
    return columns


def with_pictures(columns: dict[str, Any], vectors: np.ndarray[Any, Any], scores: Sequence[float | None]) -> pa.Table:
    """Rows with vectors of pictures, [N, D], of which NaN is none."""
    there = ~np.isnan(vectors).any(1)
    given = {
        "image_embedding_tiny": vector_column(vectors[there], there),
        "score_tiny": pa.array(scores, pa.float32()),
    }
    return pa.table(columns | given)


def stage_of(columns: Sequence[str], **given: Any) -> EmbedTexts:
    stage = EmbedTexts(EmbedConfig(model=str(VIT), pretrained=str(VIT), **given.pop("keys", {})), "tiny", **given)
    stage.see(columns)
    stage.setup(Runtime())
    return stage


class Letters:
    """An encoder of 48 numbers: how often each of the first letters is in a text."""

    preparation = Preparation(32)

    def __init__(self) -> None:
        self.asked: list[str] = []

    def images(self, pixels: Any) -> Any:
        raise AssertionError("no picture is embedded")

    def texts(self, texts: Sequence[str]) -> Any:
        import torch

        self.asked += texts
        return torch.tensor(np.stack([self.one(text) for text in texts]))

    def too_long(self, texts: list[str]) -> list[bool]:
        return [len(text) > 30 for text in texts]

    @staticmethod
    def one(text: str) -> np.ndarray[Any, Any]:
        counts = np.array([text.count(chr(ord("a") + at)) for at in range(48)], np.float32)
        return counts / max(1e-9, float(np.linalg.norm(counts)))


def test_vectors_and_scores_are_those_of_plain_open_clip(weights: str) -> None:
    import open_clip
    import torch

    open_clip.add_model_config(VIT)
    model, _, prepare = open_clip.create_model_and_transforms(VIT.stem, pretrained=weights)
    tokenize = open_clip.get_tokenizer(VIT.stem)
    recaptions = [["an apple", "a red apple on a white table"], ["grinning face"], []]
    translations = [["红苹果", None, "桌子上的苹果"], [], ["狗"]]
    kept = [[*row, *(text for text in others if text)] for row, others in zip(recaptions, translations, strict=True)]
    images = jpegs(3)
    with torch.no_grad():
        pictures = torch.stack([prepare(Image.open(io.BytesIO(image))) for image in images])
        image = model.eval().encode_image(pictures, normalize=True).numpy()
        texts = [model.encode_text(tokenize([CAPTION, *row]), normalize=True).numpy() for row in kept]
    expected = [text @ one for one, text in zip(image, texts, strict=True)]

    config = EmbedConfig(model=str(VIT), pretrained=weights, batch_size=2)
    first = Embed(config, "tiny")
    first.setup(Runtime())
    pairs = pa.table(written(recaptions, translations) | {"image": pa.array(images, pa.binary())})
    given = first(pairs).drop_columns(["image"])
    stage = EmbedTexts(config, "tiny")
    stage.see(given.schema.names)
    stage.setup(Runtime())
    made = stage(given)
    check_work(stage, given, made)
    for at, row in enumerate(made.to_pylist()):
        np.testing.assert_allclose(row["score_tiny_texts"], expected[at], atol=1e-3)
        np.testing.assert_allclose(np.array(row[MADE], np.float32).reshape(-1, 48), texts[at][1:], atol=1e-3)
        assert row["written_windows_tiny"] == [1] * len(kept[at])
    best = [max(expected[0][1:3]), expected[1][1], None], [max(expected[0][3:]), None, expected[2][1]]
    for kind, values in zip(("recaption", "translation"), best, strict=True):
        found = made[f"score_tiny_{kind}"].to_pylist()
        assert [one is None for one in found] == [one is None for one in values]
        np.testing.assert_allclose([one for one in found if one], [one for one in values if one], atol=1e-3)


def test_each_text_has_its_place_and_what_is_missing_is_null() -> None:
    vectors = np.stack([Letters.one("abc"), Letters.one("abc"), np.full(48, np.nan), Letters.one("abc")])
    recaptions = [["ab", "  ", "xyz"], ["ab"], ["ab", "c"], []]
    translations = [["c", None], ["ab"], ["a"], [None]]
    encoder = Letters()
    given = with_pictures(written(recaptions, translations, dropped=(1,)), vectors, [0.25, 0.5, None, None])
    stage = stage_of(given.schema.names, encoder=encoder)
    made = stage(given)
    check_work(stage, given, made)
    near, part = 2 / np.sqrt(6), 1 / np.sqrt(3)
    found = made["score_tiny_texts"].to_pylist()
    assert found[1:] == [None, [None, None, None, None], [None]]
    assert found[0][2] is None and found[0][:1] == [0.25]
    np.testing.assert_allclose(np.array(found[0], float), [0.25, near, np.nan, 0, part], atol=1e-3)
    assert made["score_tiny_recaption"].to_pylist() == pytest.approx([near, None, None, None], abs=1e-3)
    assert made["score_tiny_translation"].to_pylist() == pytest.approx([part, None, None, None], abs=1e-3)
    assert [row and [one is not None for one in row] for row in made[MADE].to_pylist()] == [
        [True, False, True, True], None, [True, True, True], [],
    ]  # fmt: skip
    assert made["written_windows_tiny"].to_pylist() == [[1, None, 1, 1], None, [1, 1, 1], []]
    assert encoder.asked == ["ab", "xyz", "c", "a"], "equal texts once, of no dropped row"


def test_no_text_at_all_gives_columns_of_the_declared_types() -> None:
    given = with_pictures(written([[], [" "]]), np.full((2, 48), np.nan), [None, 0.5])
    stage = stage_of(given.schema.names, encoder=Letters())
    made = stage(given)
    check_work(stage, given, made)
    assert "score_tiny_translation" not in made.schema.names
    assert made["score_tiny_texts"].to_pylist() == [[None], [0.5, None]]


def test_long_texts_are_cut_or_averaged_as_those_of_the_caption() -> None:
    long = " ".join(["ab", "cd", "ef", "gh"] * 5)
    given = with_pictures(written([["ab", long]]), Letters.one("a")[None], [0.5])
    cut = stage_of(given.schema.names, encoder=Letters())(given)
    encoder = Letters()
    whole = stage_of(given.schema.names, encoder=encoder, keys={"long_texts": "windows"})(given)
    assert cut["written_windows_tiny"].to_pylist() == [[1, 0]]
    windows = [text for text in encoder.asked if text != "ab"]
    assert whole["written_windows_tiny"].to_pylist() == [[1, len(windows)]] and " ".join(windows) == long
    mean = np.mean([Letters.one(text) for text in windows], axis=0)
    found = np.array(whole[MADE].to_pylist()[0], np.float32)
    np.testing.assert_allclose(found[1], mean / np.linalg.norm(mean), atol=1e-3)


def test_a_file_keeps_the_columns_as_they_are() -> None:
    given = with_pictures(written([["ab", " "], []], [["c"], []]), np.eye(2, 48), [0.5, None])
    stage = stage_of(given.schema.names, encoder=Letters())
    made = stage(given).select(stage.column_names())
    read = pq.read_table(pa.BufferReader(parquet_bytes(made)))
    assert read.equals(made) and [f.type for f in read.schema] == [column.type for column in stage.adds]
    assert vectors_of(pa.chunked_array(read[MADE].combine_chunks().flatten()))[0].shape == (2, 48)


def test_only_rows_whose_texts_or_picture_changed_are_embedded_again() -> None:
    encoder = Letters()
    recaptions, vectors = [["ab"], ["cd"], ["ef"], ["gh"]], np.eye(4, 48)

    def rows(recaptions: list[list[str]], sha: str, dropped: tuple[int, ...] = ()) -> pa.Table:
        rows = with_pictures(written(recaptions, dropped=dropped), vectors, [0.5] * 4)
        seen = {"sha256": [f"{one}" for one in sha], "image_settings": ["256"] * 4, "engine": ["own"] * 4}
        return set_columns(rows, {name: pa.array(values) for name, values in seen.items()})

    first = rows(recaptions, "0123")
    stage = stage_of(first.schema.names, encoder=encoder)
    had = with_made_from(stage, stage(first), "model")
    encoder.asked.clear()
    new = rows([["ab"], ["xy"], ["ef"], ["gh"]], "0173", dropped=(0,))
    kept = {name: had[name] for name in (*stage.column_names(), "embed_texts-tiny_made_from")}
    block = restored(stage, set_columns(new, kept))
    again = to_be_made(stage, block, "model")
    assert again.to_pylist() == [False, True, True, False]
    done, worked = work_again(stage, block, again, "model", stage)
    assert encoder.asked == ["xy", "ef"] and len(worked) == 2
    assert done[MADE][0].equals(had[MADE][0]) and done[MADE][3].equals(had[MADE][3])
    whole = stage(rows([["ab"], ["xy"], ["ef"], ["gh"]], "0173"))
    assert done.select(stage.column_names()).equals(whole.select(stage.column_names()))
    assert to_be_made(stage, block, "another model").to_pylist() == [False, True, True, True]
    assert not {"image", "image_embedding_tiny"} & set(decided_by(stage))


def test_scores_are_made_again_where_other_places_of_a_picture_are_painted_over() -> None:
    encoder = Letters()

    def rows(least: float) -> pa.Table:
        given = with_pictures(written([["ab"], ["cd"]]), np.eye(2, 48), [0.5] * 2)
        box = {"left": least, "top": 0.0, "right": 1.0, "bottom": 1.0, "score": 0.9}
        return set_columns(given, {"text_boxes": pa.array([[box], []], BOXES)})

    first = rows(0.25)
    stage = stage_of(first.schema.names, encoder=encoder, keys={"mask_text": "text"})
    had = with_made_from(stage, stage(first), "model")
    kept = {name: had[name] for name in (*stage.column_names(), "embed_texts-tiny_made_from")}
    for least, expected in ((0.25, [False, False]), (0.5, [True, False])):
        block = restored(stage, set_columns(rows(least), kept))
        assert to_be_made(stage, block, "model").to_pylist() == expected


def flow_with(**sections: Any) -> Flow:
    embed = {name: {"model": str(VIT), "pretrained": str(VIT)} for name in ("b", "a")}
    return flow_of({"embed": embed, **sections})


RECAPTION_ = {"model": str(MODELS / "captioner")}
TRANSLATE = {"model": str(MODELS / "translator"), "engine": {"name": "transformers", "pair": ["en", "zh"]}}


def test_the_stage_is_there_where_models_write_texts() -> None:
    assert not [name for name in flow_with().order if name.startswith("embed_texts")]
    flow = flow_with(recaption=RECAPTION_, translate=TRANSLATE)
    assert flow.order[-6:] == ("recaption", "translate", "embed_texts-a", "embed_texts-b", "gate", "pack")
    assert flow.owners["score_a_texts"] == "columns/embed_texts-a"
    carried = [name for name in flow.carried if name.startswith("score_a")]
    assert carried == ["score_a", "score_a_texts", "score_a_recaption", "score_a_translation"]
    translated = flow_with(translate=TRANSLATE).columns
    assert "score_a_translation" in translated and "score_a_recaption" not in translated
    off = {"a": {"model": str(VIT), "pretrained": str(VIT), "texts": "caption"}}
    assert "embed_texts-a" not in flow_of({"embed": off, "recaption": RECAPTION_})


def test_a_run_is_read_without_its_model(tmp_path: Path) -> None:
    flow = flow_of({"embed": {"gone": {"model": str(tmp_path / "not-there")}}, "recaption": RECAPTION_})
    assert "score_gone_texts" in flow.columns
