"""Pictures and captions as unit vectors, compared with what open_clip and transformers give by themselves."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from tiny_encoders import VIT, jpegs, write_clip, write_open_clip_weights, write_siglip

from curation.embedding import preparation
from curation.embedding.config import EmbedConfig
from curation.embedding.preparation import Preparation, pixels_of, with_pixels
from curation.embedding.stage import Embed
from curation.embedding.vectors import vectors_of
from curation.embedding.windows import in_windows
from curation.engines.model_files import file_digest
from curation.flow import flow_of
from curation.stage import Runtime
from pairmill.errors import RecipeError, UserError
from pipelines.stages.row_stage import check_work

CAPTIONS = ["a red apple", "一只狗在海滩上", "grinning face", "the flag of a country, waving in the wind", "dog"]


def rows(images: list[bytes | None], captions: list[str | None], dropped: tuple[int, ...] = ()) -> pa.Table:
    reasons = ["text_too_short" if at in dropped else None for at in range(len(images))]
    return pa.table(
        {
            "uid": [f"{at:032x}" for at in range(len(images))],
            "image": pa.array(images, pa.binary()),
            "caption": pa.array(captions, pa.string()),
            "drop_stage": pa.array(["filter" if reason else None for reason in reasons], pa.string()),
            "drop_reason": pa.array(reasons, pa.string()),
        }
    )


def embedded(config: EmbedConfig, given: pa.Table, name: str = "tiny") -> pa.Table:
    stage = Embed(config, name)
    stage.setup(Runtime())
    made = stage(given)
    check_work(stage, given, made)
    return made


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_open_clip_weights(tmp_path_factory.mktemp("weights") / "tiny.pt"))


def write_checkpoint(folder: Path, weights: str) -> Path:
    """A checkpoint as `pairmill train` leaves it, of a model with these weights."""
    import torch

    from pairmill.towers.build import build_model, model_description
    from pairmill.towers.config import ModelConfig
    from pairmill.towers.tokenizer import open_tokenizer
    from training.checkpoint import Describe, Parts, Progress, write

    config = ModelConfig(architecture=str(VIT), pretrained=weights)
    model = build_model(config, temperature_init=None, bias_init=None)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = {"step": 1, "exp_avg": {name: torch.ones_like(value) for name, value in state.items()}}
    describe = Describe(model_description(config, model), open_tokenizer(config))
    write(folder, Parts(state, optimizer, None, None), Progress(1, "plan", {}, None), describe)
    return folder


@pytest.mark.parametrize("form", ["architecture", "checkpoint", "moved checkpoint"])
def test_vectors_and_scores_are_those_of_plain_open_clip(form: str, weights: str, tmp_path: Path) -> None:
    import open_clip
    import torch

    open_clip.add_model_config(VIT)
    model, _, prepare = open_clip.create_model_and_transforms(VIT.stem, pretrained=weights)
    tokenize = open_clip.get_tokenizer(VIT.stem)
    images = jpegs(5)
    with torch.no_grad():
        pictures = torch.stack([prepare(Image.open(io.BytesIO(image))) for image in images])
        image = model.eval().encode_image(pictures, normalize=True).numpy()
        text = model.encode_text(tokenize(CAPTIONS), normalize=True).numpy()

    if form == "architecture":
        config = EmbedConfig(model=str(VIT), pretrained=weights, batch_size=2)
    else:
        folder = write_checkpoint(tmp_path / "step-000000001-0123abcd", weights)
        if form == "moved checkpoint":
            folder = folder.rename(tmp_path / "moved")
        config = EmbedConfig(model=str(folder), batch_size=2)
    made = embedded(config, rows(images, CAPTIONS))  # type: ignore[arg-type]
    found, mask = vectors_of(made["image_embedding_tiny"])
    assert mask.all() and found.dtype == np.float16
    np.testing.assert_allclose(found, image, atol=1e-3)
    np.testing.assert_allclose(vectors_of(made["text_embedding_tiny"])[0], text, atol=1e-3)
    np.testing.assert_allclose(made["score_tiny"].to_numpy(), (image * text).sum(1), atol=1e-5)
    assert made["text_windows_tiny"].to_pylist() == [1, 1, 1, 1, 1]
    assert made.schema.field("image_embedding_tiny").type.list_size == 48


@pytest.mark.parametrize(("write", "size"), [(write_clip, 40), (write_siglip, 32)])
def test_vectors_are_those_of_transformers(write: object, size: int, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModel, AutoProcessor, AutoTokenizer

    folder = write(tmp_path / "model")  # type: ignore[operator]
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    images = []
    for number in range(3):  # of the model's size, so that nothing is scaled
        buffer = io.BytesIO()
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(buffer, "PNG")
        images.append(buffer.getvalue())
    processor = AutoProcessor.from_pretrained(folder)
    pictures = processor(images=[Image.open(io.BytesIO(i)) for i in images], return_tensors="pt")["pixel_values"]
    texts = tokenizer(
        CAPTIONS[:3], truncation=True, max_length=16, return_tensors="pt", padding="max_length" if size == 32 else True
    )
    texts.pop("token_type_ids", None)
    if size == 32:
        texts.pop("attention_mask", None) if "attention_mask" not in texts else None
    with torch.no_grad():
        image = torch.nn.functional.normalize(model.get_image_features(pictures).pooler_output, dim=-1).numpy()
        text = torch.nn.functional.normalize(model.get_text_features(**texts).pooler_output, dim=-1).numpy()
    made = embedded(EmbedConfig(model=str(folder), batch_size=2), rows(images, CAPTIONS[:3]))  # type: ignore[arg-type]
    np.testing.assert_allclose(vectors_of(made["image_embedding_tiny"])[0], image, atol=1e-3)
    np.testing.assert_allclose(vectors_of(made["text_embedding_tiny"])[0], text, atol=1e-3)
    assert made.schema.field("image_embedding_tiny").type.list_size == size


def test_rows_without_a_picture_or_a_text_have_nulls_and_dropped_ones_are_left_alone(weights: str) -> None:
    images: list[bytes | None] = [*jpegs(3), None, b"no image"]
    captions = ["a", None, "c", "d", "e"]
    made = embedded(EmbedConfig(model=str(VIT), pretrained=weights), rows(images, captions, dropped=(2,)))
    valid = {
        name: made[f"{name}_tiny"].is_valid().to_pylist() for name in ("image_embedding", "text_embedding", "score")
    }
    assert valid == {
        "image_embedding": [True, True, False, False, False],
        "text_embedding": [True, False, False, True, True],
        "score": [True, False, False, False, False],
    }
    assert made["text_windows_tiny"].to_pylist() == [1, None, None, 1, 1]


def test_no_row_at_all_gives_columns_of_the_declared_types(weights: str) -> None:
    made = embedded(EmbedConfig(model=str(VIT), pretrained=weights), rows([None, None], [None, " "]))
    assert made["score_tiny"].null_count == 2 and made["image_embedding_tiny"].null_count == 2


LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen " * 4


def test_a_long_text_is_cut_off_or_averaged_over_windows_and_the_table_says_which(weights: str) -> None:
    given = rows(list(jpegs(2)), ["short", LONG])
    cut = embedded(EmbedConfig(model=str(VIT), pretrained=weights), given)
    whole = embedded(EmbedConfig(model=str(VIT), pretrained=weights, long_texts="windows"), given)
    assert cut["text_windows_tiny"].to_pylist() == [1, 0]
    assert whole["text_windows_tiny"][0].as_py() == 1 and whole["text_windows_tiny"][1].as_py() > 2
    vectors = vectors_of(whole["text_embedding_tiny"])[0].astype(np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-2)
    beginning = vectors_of(cut["text_embedding_tiny"])[0].astype(np.float32)
    np.testing.assert_allclose(vectors[0], beginning[0], atol=1e-3)
    windows = in_windows([LONG], Embedding(weights).too_long).texts
    assert " ".join(windows).split() == LONG.split()
    parts = embedded(EmbedConfig(model=str(VIT), pretrained=weights), rows([None] * len(windows), list(windows)))
    mean = vectors_of(parts["text_embedding_tiny"])[0].astype(np.float32).sum(0)
    np.testing.assert_allclose(vectors[1], mean / np.linalg.norm(mean), atol=2e-3)


class Embedding:
    """The model's own view of which texts are too long."""

    def __init__(self, weights: str) -> None:
        from curation.embedding.encoders import load_encoder

        self.too_long = load_encoder(EmbedConfig(model=str(VIT), pretrained=weights)).too_long


@pytest.mark.parametrize("text", ["", " ", "word", "字" * 1000, "x" * 5000, "a b " * 999, "no  double   spaces " * 50])
def test_windows_hold_all_words_of_a_text_in_order_and_fit(text: str) -> None:
    found = in_windows([text, "other"], lambda texts: [len(one) > 20 for one in texts])
    assert found.of == [0] * (len(found.texts) - 1) + [1] and found.texts[-1] == "other"
    assert all(len(one) <= 20 for one in found.texts)
    assert "".join(found.texts[:-1]).replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize("library", ["open_clip", "transformers"])
def test_batches_of_texts_are_halved_when_memory_runs_out(
    library: str, weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from curation.embedding import encoders

    model = (
        {"model": str(VIT), "pretrained": weights} if library == "open_clip" else {"model": str(write_clip(tmp_path))}
    )
    encoder = encoders.load_encoder(EmbedConfig(**model, batch_size=256))
    texts = [f"{at} {CAPTIONS[at % 5]}" for at in range(9)]
    expected, sizes = encoder.texts(texts), list[int]()

    def full_above_two(work: Any, place: int) -> Any:
        def called(*given: Any, **keys: Any) -> Any:
            size = keys.get("batch_size", len(given[place]) if place < len(given) else 0)
            sizes.append(size)
            if size > 2:
                raise torch.cuda.OutOfMemoryError("full")
            return work(*given, **keys)

        return called

    if library == "open_clip":
        monkeypatch.setattr(encoders, "embed_texts", full_above_two(encoders.embed_texts, 9))
    else:
        monkeypatch.setattr(encoder, "_tokenizer", full_above_two(encoder._tokenizer, 0))  # type: ignore[attr-defined]
    torch.testing.assert_close(encoder.texts(texts), expected, atol=1e-5, rtol=0)
    assert sizes[0] > 2 and sizes.count(2) > 0


def test_one_decode_serves_several_models(monkeypatch: pytest.MonkeyPatch) -> None:
    from pairmill.towers import eval_transform

    decoded: list[bytes] = []
    plain = eval_transform.decode
    monkeypatch.setattr(eval_transform, "decode", lambda data: (decoded.append(data), plain(data))[1])
    images = jpegs(3)
    small, large = Preparation(32), Preparation(64, "squash", "bilinear")
    made = pixels_of([*images, None, b"broken"], [small, large])
    assert decoded == [*images, b"broken"]
    assert [pixels.shape for pixels, _ in made] == [(3, side, side, 3) for side in (32, 64)]
    assert [there.tolist() for _, there in made] == [[True, True, True, False, False]] * 2
    table = with_pixels(rows([None, *images], ["x"] * 4), np.array([False, True, False, True]), [small, large, small])
    assert decoded[4:] == [images[0], images[2]]
    pixels, mask = preparation.stacked(table[small.column], 32)
    assert mask.tolist() == [False, True, False, True]
    np.testing.assert_array_equal(pixels[1], made[0][0][2])
    assert not pixels.flags.owndata, "no copy"
    for part in (
        table.slice(1, 2),
        table.filter(pa.array([False, True, True, False])),
        table.take(pa.array([3, 0, 1])),
    ):
        found, there = preparation.stacked(part[small.column], 32)
        expected = [one for one in part[small.column].to_pylist() if one is not None]
        assert [one.tobytes() for one in found] == expected and there.sum() == len(expected)


def test_the_stage_takes_pixels_that_are_prepared(weights: str) -> None:
    config = EmbedConfig(model=str(VIT), pretrained=weights)
    stage = Embed(config, "tiny")
    given = rows(list(jpegs(4)), ["a", "b", "c", "d"])
    prepared = with_pixels(given, np.array([True, True, True, True]), [stage.preparation()])
    without = prepared.set_column(prepared.schema.get_field_index("image"), "image", pa.array([b"gone"] * 4))
    stage.setup(Runtime())
    assert stage(without).select(stage.column_names()).equals(stage(given).select(stage.column_names()))


def test_a_table_follows_from_its_own_model_only(weights: str, tmp_path: Path) -> None:
    other = str(write_open_clip_weights(tmp_path / "other.pt", seed=5))
    one = Embed(EmbedConfig(model=str(VIT), pretrained=weights), "a")
    two = Embed(EmbedConfig(model=str(VIT), pretrained=other), "a")
    assert one.revision() != two.revision()
    assert one.identity() == Embed(EmbedConfig(model=str(VIT), pretrained=weights, batch_size=3), "a").identity()
    flow = flow_of(
        {"embed": {"b": {"model": str(VIT), "pretrained": weights}, "a": {"model": str(VIT), "pretrained": other}}}
    )
    assert [stage.name for stage in flow.segment("score")] == ["embed-a", "embed-b"]
    assert flow.owners["image_embedding_a"] == "columns/embed-a" and flow.owners["score_b"] == "columns/embed-b"
    assert "score_a" in flow.carried and "image_embedding_a" not in flow.carried


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({"one": {"model": "ViT-B-32"}}, r"embed\.one\.pretrained must name the weights"),
        ({"one": {"model": "hf-hub:x/y", "pretrained": "laion2b"}}, "embed.one.model must be"),
        ({"one": {"model": "ViT-B-32", "batchsize": 4}}, "perhaps you mean: batch_size"),
        ({"b-32": {"model": "ViT-B-32"}}, "the names in embed must be letters"),
        (["a"], "embed must be a mapping"),
        ({"one": {"model": "samples/models/captioner"}}, "embed.one.model must be of a family"),
        ({"one": {"model": "samples"}}, "embed.one.model must be a folder with open_clip_config.json"),
    ],
)
def test_mistakes_are_named(recipe: object, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=words):
        for stage in flow_of({"embed": recipe}).segment("score"):
            stage.revision()


def test_a_run_is_read_without_its_model(tmp_path: Path) -> None:
    flow = flow_of({"embed": {"gone": {"model": str(tmp_path / "not-there")}}})
    assert "score_gone" in flow.columns
    with pytest.raises(UserError, match=re.escape(str(tmp_path / "not-there"))):
        flow.named("embed-gone").revision()
    with pytest.raises(RecipeError, match="must be set"):
        flow_of({"embed": {"gone": {}}})


def test_what_a_model_is_made_of_is_in_its_revision(weights: str, tmp_path: Path) -> None:
    def revision(config: EmbedConfig) -> str:
        return Embed(config, "a").revision()

    architecture = tmp_path / "vit.json"
    plain = json.loads(VIT.read_text())
    architecture.write_text(json.dumps(plain))
    own = EmbedConfig(model=str(architecture), pretrained=weights)
    before = revision(own)
    architecture.write_text(json.dumps({"model_cfg": plain, "preprocess_cfg": {"resize_mode": "squash"}}))
    squashed = revision(own)
    assert squashed != before
    folder = tmp_path / "folder"
    folder.mkdir()
    shutil.copy(weights, folder / "open_clip_pytorch_model.bin")
    beside = EmbedConfig(model=str(VIT), pretrained=str(folder))
    before = revision(beside)
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": plain, "preprocess_cfg": {"resize_mode": "longest"}})
    )
    assert revision(beside) != before


def test_every_byte_of_a_large_file_of_weights_counts(tmp_path: Path) -> None:
    file = tmp_path / "large.onnx"
    with file.open("wb") as stream:
        stream.truncate(70 << 20)
    before = file_digest(file)
    with file.open("r+b") as stream:
        stream.seek(35 << 20)
        stream.write(b"x")
    assert file_digest(file) != before


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"model": "ViT-B-32", "pretrained": "openai", "revision": "main"}, r"embed\.a\.revision must be null"),
        ({"model": "{clip}", "preprocess": "openai"}, r"embed\.a\.preprocess must be null"),
        ({"model": "{odd}"}, r"vectors of a length"),
        ({"model": "~nosuchuser/model"}, "must be a folder or a hub id"),
    ],
)
def test_keys_that_a_model_has_no_use_for_are_refused(given: dict[str, str], words: str, tmp_path: Path) -> None:
    for name, config in {
        "clip": {"model_type": "clip", "projection_dim": 40},
        "odd": {"model_type": "clip", "projection_dim": None},
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    places = {name: str(tmp_path / name) for name in ("clip", "odd")}
    with pytest.raises(UserError, match=words):
        flow_of({"embed": {"a": {key: value.format(**places) for key, value in given.items()}}}).named(
            "embed-a"
        ).revision()
