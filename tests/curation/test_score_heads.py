"""The section `score`: heads over pixels and embeddings, each a column."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from tiny_encoders import VIT
from tiny_onnx import write_mean_network

from curation.embedding.vectors import vector_column
from curation.flow import flow_of
from curation.heads.onnx import Onnx
from curation.heads.stage import Score
from curation.stage import Runtime
from pairmill.errors import IntegrityError, JobError, UserError
from pairmill.registry import NamedConfig
from pipelines.stages.row_stage import check_work

D = 6
RNG = np.random.default_rng(3)


def unit(rows: int) -> np.ndarray:
    vectors = RNG.standard_normal((rows, D))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def picture(seed: int, size: tuple[int, int] = (12, 10)) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def rows(count: int = 5) -> pa.Table:
    """The second row is dropped, the third has no picture, the fourth no text."""
    has_image, has_text = np.ones(count, bool), np.ones(count, bool)
    has_image[2], has_text[3] = False, False
    return pa.table(
        {
            "uid": [f"{at:032x}" for at in range(count)],
            "image": pa.array([picture(at) if has_image[at] else None for at in range(count)], pa.binary()),
            "image_embedding_clip": vector_column(unit(int(has_image.sum())), has_image),
            "text_embedding_clip": vector_column(unit(int(has_text.sum())), has_text),
            "drop_stage": pa.array([None, "filter", *[None] * (count - 2)], pa.string()),
            "drop_reason": pa.array([None, "where", *[None] * (count - 2)], pa.string()),
        }
    )


def scored(given: pa.Table, called: str = "good", **keys: Any) -> pa.Table:
    stage = Score(Score.configured(keys, at=f"score.{called}"), called)
    stage.setup(Runtime())
    made = stage(given)
    check_work(stage, given, made)
    return made


def vectors(table: pa.Table, name: str) -> list[np.ndarray | None]:
    return [None if one is None else np.asarray(one, np.float64) for one in table[name].to_pylist()]


def test_a_linear_probe_in_torchs_form_is_a_dot_product(tmp_path: Path) -> None:
    import torch

    layer = torch.nn.Linear(D, 1)
    torch.save(layer.state_dict(), tmp_path / "linear.pth")
    given = rows()
    made = scored(given, name="mlp", embedding="clip", weights=str(tmp_path / "linear.pth"))
    weight, bias = layer.weight.detach().numpy()[0], float(layer.bias.detach()[0])
    expected = [None if v is None else float(v @ weight) + bias for v in vectors(given, "image_embedding_clip")]
    expected[1] = None
    assert made["good"].to_pylist() == [None if e is None else pytest.approx(e, abs=1e-5) for e in expected]


class Aesthetic:
    """The shape of LAION's improved aesthetic predictor: linear layers with dropout between them, nothing else."""

    def __new__(cls) -> Any:
        from torch import nn

        return nn.Sequential(nn.Linear(D, 8), nn.Dropout(0.2), nn.Linear(8, 4), nn.Dropout(0.1), nn.Linear(4, 1))


@pytest.mark.parametrize("activation", ["none", "relu", "gelu"])
@pytest.mark.parametrize("output", ["none", "sigmoid"])
def test_layers_are_run_as_torch_runs_them(activation: str, output: str, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = Aesthetic().eval()
    save_file({f"layers.{name}": tensor for name, tensor in model.state_dict().items()}, tmp_path / "mlp.safetensors")
    given = rows(12)
    made = scored(
        given,
        "good",
        name="mlp",
        embedding="clip",
        weights=str(tmp_path / "mlp.safetensors"),
        activation=activation,
        output=output,
    )
    act = {"none": lambda x: x, "relu": torch.relu, "gelu": torch.nn.functional.gelu}[activation]
    end = torch.sigmoid if output == "sigmoid" else lambda x: x
    for at, vector in enumerate(vectors(given, "image_embedding_clip")):
        value = made["good"][at].as_py()
        if at in (1, 2):
            assert value is None
            continue
        with torch.no_grad():
            x = torch.tensor(vector, dtype=torch.float32)
            expected = end(model[4](act(model[2](act(model[0](x))))))
        assert value == pytest.approx(float(expected), abs=1e-5)


def test_a_file_says_what_its_layers_read_and_go_through(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    weight = RNG.standard_normal((2, 3 * D)).astype(np.float32)
    said = {"features": "pair", "output": "softmax"}
    save_file({"weight": weight}, tmp_path / "pair.safetensors", metadata={"pairmill_head": json.dumps(said)})
    given = rows()
    made = scored(given, "dfn", name="mlp", embedding="clip", weights=str(tmp_path / "pair.safetensors"), index=1)
    images, texts = vectors(given, "image_embedding_clip"), vectors(given, "text_embedding_clip")
    for at, (x, y) in enumerate(zip(images, texts, strict=True)):
        if at in (1, 2, 3):
            assert made["dfn"][at].as_py() is None
            continue
        assert x is not None and y is not None
        logits = weight.astype(np.float64) @ np.concatenate([x, y, x * y])
        assert made["dfn"][at].as_py() == pytest.approx(np.exp(logits[1]) / np.exp(logits).sum(), abs=1e-5)


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"weight": np.zeros((2, D + 1), np.float32)}, rf"reads {D + 1} numbers, and embed\.clip gives {D}"),
        ({"conv.weight": np.zeros((2, 3, 3), np.float32)}, "conv.weight is not part of one"),
        (
            {"bn.running_mean": np.zeros(2, np.float32), "bn.weight": np.zeros((2, 2), np.float32)},
            "running_mean is not",
        ),
        ({"0.weight": np.zeros((2, D), np.float32), "1.weight": np.zeros((2, 3), np.float32)}, "do not fit"),
        ({}, "it holds no layer"),
    ],
)
def test_layers_that_do_not_fit_are_refused_with_the_key(tensors: Any, says: str, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file(tensors, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=says) as error:
        scored(rows(), "good", name="mlp", embedding="clip", weights=str(tmp_path / "w.safetensors"))
    assert "score.good.weights must" in str(error.value)


@pytest.mark.parametrize(("colours", "channel"), [("RGB", 2), ("BGR", 0)])
def test_a_network_in_onnx_form_sees_what_its_keys_say(colours: str, channel: int, tmp_path: Path) -> None:
    write_mean_network(tmp_path / "means.onnx", 10)
    given = rows()
    images = given["image"].to_pylist()
    images[4] = b"broken"
    given = given.set_column(given.schema.get_field_index("image"), "image", pa.array(images, pa.binary()))
    made = scored(
        given,
        "means",
        name="onnx",
        model=str(tmp_path / "means.onnx"),
        size=10,
        mean=[0.5, 0.25, 0.5],
        std=[0.5, 1, 2],
        scale=3.0,
        colours=colours,
        index=1,
        batch_size=2,
    )
    assert made["means"].is_valid().to_pylist() == [True, False, False, True, False]
    pixels = np.asarray(Image.open(io.BytesIO(images[0])).resize((10, 10), Image.Resampling.BICUBIC), np.float64) / 255
    assert made["means"][0].as_py() == pytest.approx((pixels[..., channel].mean() - 0.5) / 2 * 3, abs=1e-4)


class Edges:
    """A user's own head: two columns, and one of another stage read."""

    Config = NamedConfig
    input: Literal["pixels", "embedding"] = "pixels"
    columns = pa.schema([("edges", pa.float32()), ("boxes", pa.list_(pa.int32()))])
    wrong: ClassVar[str] = ""

    @classmethod
    def reads(cls, config: NamedConfig) -> tuple[str, ...]:
        return ("uid",)

    @classmethod
    def revision(cls, config: NamedConfig) -> str:
        return "1"

    @classmethod
    def load(cls, config: NamedConfig) -> Edges:
        return cls()

    def __call__(self, images: pa.ChunkedArray, uid: pa.ChunkedArray) -> pa.Table:
        if self.wrong == "raises":
            raise ValueError("no edges")
        ends = [float(int(one[-1], 16)) for one in uid.to_pylist()]
        made = pa.table(
            [pa.array(ends, pa.float32()), pa.array([[1]] * len(ends), pa.list_(pa.int32()))], schema=self.columns
        )
        return made.slice(1) if self.wrong == "short" else made


OWN = f"{__name__}:Edges"


def test_an_own_head_has_columns_named_after_it() -> None:
    made = scored(rows(), "mine", name=OWN)
    assert made["mine"].to_pylist() == [0.0, None, None, 3.0, 4.0]
    assert made["mine_boxes"].to_pylist() == [[1], None, None, [1], [1]]
    stage = flow_of({"score": {"mine": OWN}}).named("score-mine")
    assert [column.carried for column in stage.adds] == [True, False]


@pytest.mark.parametrize(
    ("wrong", "kind", "says"),
    [
        ("raises", JobError, r"score\.mine.*no edges.*the row with uid 0{32}"),
        ("short", IntegrityError, "for 3 pictures"),
    ],
)
def test_an_own_head_that_fails_is_named(
    wrong: str, kind: type[Exception], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Edges, "wrong", wrong)
    with pytest.raises(kind, match=f"(?s){says}"):
        scored(rows(), "mine", name=OWN)


def test_a_head_of_embeddings_follows_its_embedding_and_reads_no_picture(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"weight": np.zeros((1, 48), np.float32)}, tmp_path / "w.safetensors")
    embed = {"clip": {"model": str(VIT), "pretrained": str(VIT)}}
    flow = flow_of(
        {
            "embed": embed,
            "score": {"good": {"name": "mlp", "embedding": "clip", "weights": str(tmp_path / "w.safetensors")}},
        }
    )
    assert [stage.name for stage in flow.segment("score")] == ["embed-clip", "score-good"]
    assert flow.by_table(flow.named("score-good").reads) == {
        "columns/embed-clip": ("image_embedding_clip", "text_embedding_clip")
    }
    with pytest.raises(UserError, match="image_embedding_clap"):
        flow_of({"embed": embed, "score": {"good": {"name": "mlp", "embedding": "clap", "weights": "w.safetensors"}}})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("mpl", r"score\.good must be one of .*perhaps you mean: mlp"),
        ({"name": "mlp", "weights": "w"}, r"score\.good\.embedding must be set"),
        ({"name": "onnx", "model": "gone.onnx", "size": 0}, r"score\.good\.size must"),
        (3, r"score\.good must be a name, or a mapping"),
    ],
)
def test_mistakes_name_the_key(given: object, says: str) -> None:
    with pytest.raises(UserError, match=f"(?s){says}"):
        flow_of({"score": {"good": given}})


def test_a_missing_file_is_named_when_the_table_is_keyed(tmp_path: Path) -> None:
    for keys in (
        {"name": "mlp", "embedding": "x", "weights": str(tmp_path / "w")},
        {"name": "onnx", "model": str(tmp_path / "w"), "size": 3},
    ):
        stage = Score(Score.configured(keys, at="score.good"), "good")
        with pytest.raises(UserError, match="a file of weights must be readable"):
            stage.revision()


@pytest.mark.parametrize("name", ["row", "input", "and", "None", "caption_made_from", "would_drop_x", "keep", "score"])
def test_names_that_tables_or_expressions_use_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="the names in score must not be words"):
        flow_of({"score": {name: "open_nsfw"}})


def test_what_cannot_work_is_refused_when_planned(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    def check(**keys: Any) -> None:
        stage = Score(Score.configured(keys, at="score.good"), "good")
        stage.check({"image_embedding_clip": vector_column(unit(1), np.ones(1, bool)).type})
        stage.probe()

    save_file({"weight": np.zeros((1, D), np.float32)}, tmp_path / "fits.safetensors")
    save_file({"weight": np.zeros((1, D + 1), np.float32)}, tmp_path / "other.safetensors")
    said = {"pairmill_head": json.dumps({"activation": "tanh"})}
    save_file({"weight": np.zeros((1, D), np.float32)}, tmp_path / "odd.safetensors", metadata=said)
    (tmp_path / "page.safetensors").write_text("<html>")
    check(name="mlp", embedding="clip", weights=str(tmp_path / "fits.safetensors"))
    for file, says in (("other", "reads 7 numbers"), ("odd", "'tanh'"), ("page", "must be a file of linear layers")):
        with pytest.raises(UserError, match=says):
            check(name="mlp", embedding="clip", weights=str(tmp_path / f"{file}.safetensors"))
    write_mean_network(tmp_path / "means.onnx", 10)
    check(name="onnx", model=str(tmp_path / "means.onnx"), size=10)
    with pytest.raises(UserError, match=r"score\.good must prepare pictures as its network takes them"):
        check(name="onnx", model=str(tmp_path / "means.onnx"), size=12)
    with pytest.raises(UserError, match=r"score\.good\.std"):
        check(name="onnx", model=str(tmp_path / "means.onnx"), size=10, std=[0, 0, 0])


def test_tensors_in_other_files_count(tmp_path: Path) -> None:
    # What follows the key `location` in a tensor is the name of a file beside the model.
    (tmp_path / "net.onnx").write_bytes(b"....\n\x08location\x12\x08ext.data....")
    (tmp_path / "ext.data").write_bytes(b"1")
    config = Score.configured({"name": "onnx", "model": str(tmp_path / "net.onnx"), "size": 3}, at="score.x")
    before = Onnx.revision(config)
    (tmp_path / "ext.data").write_bytes(b"2")
    assert Onnx.revision(config) != before
    (tmp_path / "ext.data").unlink()
    with pytest.raises(UserError, match=r"ext\.data"):
        Onnx.revision(config)
