import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from pairmill.errors import InputError, RecipeError
from pairmill.towers.build import build_model, image_statistics
from pairmill.towers.config import ModelConfig
from pairmill.towers.eval_transform import EvalTransform
from pairmill.towers.tokenizer import Tokenizer, open_tokenizer
from training.evaluate.config import EvaluateConfig
from training.evaluate.datasets import check_datasets
from training.evaluate.results import Record
from training.evaluate.run import evaluate

EMOJI = Path(__file__).parents[3] / "samples" / "emoji"
TEXT = pa.struct([("text", pa.string()), ("language", pa.string()), ("kind", pa.string())])
MODEL = ModelConfig(architecture=str(Path(__file__).parent / "tiny_clip.json"))
SIZE = 32


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return build_model(MODEL, temperature_init=None, bias_init=None).train()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return open_tokenizer(MODEL)


@pytest.fixture(scope="module")
def labels() -> list[dict[str, str]]:
    lines = (EMOJI / "labels.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines[::12]]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, labels: list[dict[str, str]]) -> str:
    """Emoji with an English and a Chinese label and their group, and two rows that cannot be used."""
    images = [(EMOJI / "images" / label["file"]).read_bytes() for label in labels]
    texts = [
        [text(label["en"], "en"), text(label["zh"], "zh"), text(label["group"], "en", "short")] for label in labels
    ]
    rows = pa.table(
        {
            "image": pa.array([b"not an image", *images, images[0]], pa.binary()),
            "texts": pa.array([texts[0], *texts, [text("  ", "en")]], pa.list_(TEXT)),
            "group": pa.array(["flags", *(label["group"] for label in labels), "no such group"]),
        }
    )
    folder = tmp_path_factory.mktemp("evaluate")
    pq.write_table(rows, folder / "emoji.parquet", row_group_size=20)
    return str(folder)


def text(string: str, language: str, kind: str = "alt") -> dict[str, str]:
    return {"text": string, "language": language, "kind": kind}


def run(model: nn.Module, tokenizer: Tokenizer, **recipe: object) -> list[Record]:
    config = EvaluateConfig.checked({"batch_size": 16, **recipe}, at="evaluate")
    return evaluate(model, tokenizer, EvalTransform(SIZE), config, name="tiny", pretrained="random")


def naive_features(
    model: nn.Module, labels: Sequence[dict[str, str]], texts: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """One at a time, padded to the full context, by open_clip's own calls."""
    mean, std = image_statistics(model)
    model.eval()
    tokens = open_clip.SimpleTokenizer(context_length=32)
    images = []
    with torch.inference_mode():
        for label in labels:
            pixels = EvalTransform(SIZE)((EMOJI / "images" / label["file"]).read_bytes())
            assert pixels is not None
            chw = torch.from_numpy((pixels / 255 - np.array(mean)) / np.array(std)).float().permute(2, 0, 1)
            images.append(model.encode_image(chw[None], normalize=True)[0].double().numpy())  # type: ignore[operator]
        rows = [model.encode_text(tokens([t]), normalize=True)[0].double().numpy() for t in texts]  # type: ignore[operator]
    model.train()
    return np.stack(images), np.stack(rows)


@pytest.mark.slow
def test_retrieval_equals_a_naive_evaluation(
    model: nn.Module, tokenizer: Tokenizer, dataset: str, labels: list[dict[str, str]]
) -> None:
    metrics = ["geometry", {"name": "recall", "at": [1, 10]}, "rank_variance"]
    (record,) = run(model, tokenizer, datasets={"emoji": {"path": dataset}}, metrics=metrics)
    keys = list(dict.fromkeys((t, lang) for label in labels for t, lang in _texts(label)))
    images, texts = naive_features(model, labels, [t for t, _ in keys])
    own = np.array([[key in _texts(label) for key in keys] for label in labels])
    scores = images @ texts.T
    for k in (1, 10):
        to_text = np.mean([own[i, np.argsort(-scores[i])[:k]].any() for i in range(len(labels))])
        to_image = np.mean([own[np.argsort(-scores[:, t])[:k], t].any() for t in range(len(keys))])
        assert record["metrics"][f"distinct_texts/text_retrieval_recall@{k}"] == pytest.approx(to_text)
        assert record["metrics"][f"distinct_texts/image_retrieval_recall@{k}"] == pytest.approx(to_image)
    assert (record["dataset"], record["model"], record["pretrained"]) == ("emoji", "tiny", "random")
    assert (record["task"], record["language"]) == ("zeroshot_retrieval", "en,zh")
    assert (record["images"], record["texts"]) == (len(labels), 3 * len(labels))
    assert record["skipped"] == {"corrupt_image": 1, "no_text": 1}
    assert record["metrics"]["mrv_language/instances"] == len(labels)
    assert record["metrics"]["geometry/modality_gap"] == pytest.approx(
        np.linalg.norm(images.mean(0) - texts.mean(0)), abs=1e-5
    )


def _texts(label: dict[str, str]) -> list[tuple[str, str]]:
    return [(label["en"], "en"), (label["zh"], "zh"), (label["group"], "en")]


def test_languages_kinds_and_a_limit(model: nn.Module, tokenizer: Tokenizer, dataset: str) -> None:
    only = {"path": dataset, "kind": {"text_kinds": ["alt"]}}
    (chinese,) = run(model, tokenizer, datasets={"emoji": only}, languages=["zh"], max_images=21)
    assert (chinese["language"], chinese["images"], chinese["texts"]) == ("zh", 21, 21)
    assert not any(name.startswith(("language_", "kind_", "mrv_")) for name in chinese["metrics"])
    (both,) = run(model, tokenizer, datasets={"emoji": only}, max_images=21)
    assert both["metrics"]["language_zh/image_retrieval_recall@10"] == chinese["metrics"]["image_retrieval_recall@10"]


@pytest.mark.slow
def test_zero_shot_equals_open_clips_classifier(
    model: nn.Module, tokenizer: Tokenizer, dataset: str, labels: list[dict[str, str]], tmp_path: Path
) -> None:
    groups = sorted({label["group"] for label in labels})
    (tmp_path / "groups.json").write_text(json.dumps({"en": groups, "zh": [f"第{i}类" for i in range(len(groups))]}))
    kind = {"name": "zero_shot", "class_names": str(tmp_path / "groups.json")}
    asked = {"kind": kind, "path": dataset, "text_column": "group"}
    english, chinese = run(model, tokenizer, datasets={"groups": asked})
    model.eval()
    weights = open_clip.build_zero_shot_classifier(
        model, open_clip.SimpleTokenizer(context_length=32), groups, list(open_clip.OPENAI_IMAGENET_TEMPLATES)
    )
    model.train()
    images, _ = naive_features(model, labels, ["x"])
    guess = (images @ weights.double().numpy()).argmax(1)
    true = np.array([groups.index(label["group"]) for label in labels])
    assert english["metrics"]["acc1"] == pytest.approx((guess == true).mean())
    assert english["metrics"]["mean_per_class_recall"] == pytest.approx(
        np.mean([(guess == true)[true == c].mean() for c in set(true.tolist())])
    )
    assert (english["task"], english["language"], chinese["language"]) == ("zeroshot_classification", "en", "zh")
    assert english["skipped"] == chinese["skipped"] == {"corrupt_image": 1, "no_label": 1}
    assert english["images"] == chinese["images"] == len(labels)


def test_every_module_is_left_in_the_mode_it_was_in(model: nn.Module, tokenizer: Tokenizer, dataset: str) -> None:
    model.visual.eval()  # type: ignore[union-attr, operator]
    before = [module.training for module in model.modules()]
    run(model, tokenizer, datasets={"emoji": {"path": dataset}}, max_images=2)
    assert [module.training for module in model.modules()] == before
    assert len(set(before)) == 2
    model.train()


def test_nothing_to_evaluate_on_is_said(model: nn.Module, tokenizer: Tokenizer, dataset: str) -> None:
    with pytest.raises(InputError):
        run(model, tokenizer, datasets={"emoji": {"path": dataset, "languages": ["fr"]}})
    with pytest.raises(RecipeError):
        run(model, tokenizer, datasets={"emoji": {"path": dataset, "kind": "zero_shot"}})
    with pytest.raises(RecipeError):
        run(model, tokenizer, datasets={"emoji": {"path": dataset + "/nowhere"}})


@pytest.mark.parametrize(
    ("metrics", "says"),
    [
        (["recal"], "perhaps you mean: recall"),
        ([{"name": "geometry", "at": [1]}], r"evaluate\.metrics\[0\]\.at is not a key"),
        (["recall", "recall"], "must name each metric once"),
        (["recall", "accuracy"], "must give what a metric needs"),
    ],
)
def test_metrics_that_cannot_be_measured_are_refused_without_a_model(
    dataset: str, metrics: list[object], says: str
) -> None:
    with pytest.raises(RecipeError, match=says):
        check_datasets(EvaluateConfig.checked({"datasets": {"emoji": {"path": dataset}}, "metrics": metrics}))


def test_classes_that_share_a_name_are_refused_without_a_model(dataset: str, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("crane\nCrane\n")
    kind = {"name": "zero_shot", "class_names": str(tmp_path / "names.txt")}
    config = EvaluateConfig.checked({"datasets": {"emoji": {"path": dataset, "kind": kind}}})
    with pytest.raises(RecipeError, match="must differ"):
        check_datasets(config)


def test_reading_a_recipe_imports_no_torch() -> None:
    code = (
        "import sys; from training.evaluate.config import EvaluateConfig as E; from training.evaluate import datasets;"
        "E.checked({'datasets': {'a': {'path': 'p', 'kind': {'name': 'zero_shot', 'class_names': 'imagenet'}}},"
        "'metrics': ['accuracy']}); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
