"""Every number that CLIP_benchmark gives too is its own, on the same tars and the same model."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from clip_benchmark.datasets.builder import build_wds_dataset, image_captions_collate_fn
from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval
from small_datasets import jpeg, write_tar
from torch import nn

from pairmill.towers.build import build_model, image_statistics
from pairmill.towers.config import ModelConfig
from pairmill.towers.eval_transform import EvalTransform
from pairmill.towers.tokenizer import Tokenizer, open_tokenizer
from training.evaluate.config import EvaluateConfig
from training.evaluate.results import Record
from training.evaluate.run import evaluate

pytestmark = pytest.mark.slow

MODEL = ModelConfig(architecture=str(Path(__file__).parent / "tiny_clip.json"))
SIZE = 32
WORDS = ["a", "red", "blue", "cat", "dog", "on", "the", "sofa", "two", "small", "trees", "under", "rain"]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(3)
    return build_model(MODEL, temperature_init=None, bias_init=None).eval()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return open_tokenizer(MODEL)


@pytest.fixture(autouse=True)
def one_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """CLIP_benchmark 1.6.2 calls `float` on arrays of one element, which NumPy 2.4 refuses: here it takes them."""

    def as_float(value: Any) -> float:
        return float(value.item() if isinstance(value, np.ndarray) else value)

    monkeypatch.setattr(zeroshot_classification, "float", as_float, raising=False)


def ours(model: nn.Module, tokenizer: Tokenizer, path: Path, kind: dict[str, Any], **dataset: Any) -> Record:
    recipe = {"batch_size": 16, "datasets": {"set": {"path": str(path), "kind": kind, **dataset}}}
    config = EvaluateConfig.checked(recipe, at="evaluate")
    (record,) = evaluate(model, tokenizer, EvalTransform(SIZE), config, name="tiny", pretrained="random")
    return record


def preprocess(model: nn.Module) -> Callable[..., Any]:
    mean, std = image_statistics(model)
    return open_clip.image_transform(SIZE, is_train=False, mean=tuple(mean), std=tuple(std))


def their_retrieval(model: nn.Module, root: Path, batch_size: int = 7) -> dict[str, float]:
    dataset = build_wds_dataset("set", preprocess(model), split="test", data_dir=str(root))
    loader = torch.utils.data.DataLoader(dataset, batch_size=batch_size, collate_fn=image_captions_collate_fn)
    tokens = open_clip.SimpleTokenizer(context_length=32)
    return zeroshot_retrieval.evaluate(model, loader, tokens, "cpu", amp=False, recall_k_list=[1, 5, 10])


def their_classification(model: nn.Module, root: Path) -> dict[str, float]:
    dataset = build_wds_dataset("set", preprocess(model), split="test", data_dir=str(root))
    loader = torch.utils.data.DataLoader(dataset, batch_size=16)
    loader.dataset.classes = dataset.classes
    tokens = open_clip.SimpleTokenizer(context_length=32)
    return zeroshot_classification.evaluate(model, loader, tokens, dataset.classes, dataset.templates, "cpu", amp=False)


def folder(root: Path, shards: Sequence[Sequence[tuple[str, dict[str, bytes]]]], **texts: str) -> Path:
    """Tars as CLIP_benchmark lays them out; texts: the files beside them by their stem."""
    for number, samples in enumerate(shards):
        write_tar(root / "test" / f"{number}.tar", samples)
    (root / "test" / "nshards.txt").write_text(str(len(shards)))
    for name, text in texts.items():
        (root / f"{name}.txt").write_text(text, encoding="utf-8")
    return root


def captions(seed: int, number: int = 5) -> list[str]:
    pick = torch.Generator().manual_seed(seed)
    return [" ".join(WORDS[i] for i in torch.randint(len(WORDS), (6,), generator=pick)) for _ in range(number)]


def agree(found: Record, theirs: dict[str, float]) -> None:
    assert {name: found["metrics"][name] for name in theirs} == pytest.approx(theirs, abs=1e-6)


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[str]]]:
    """A caption a line; three of the captions stand twice, below one image or two."""
    texts = [captions(n, 3 + n % 3) for n in range(60)]
    texts[4][1] = texts[4][0]
    texts[9][0] = texts[30][2]
    texts[11][0] = texts[31][1]
    samples = [(f"s{n:07d}", {"jpg": jpeg(n, detail=3), "txt": "\n".join(own).encode()}) for n, own in enumerate(texts)]
    root = tmp_path_factory.mktemp("lines")
    return folder(root, [samples[:40], samples[40:]], dataset_type="retrieval"), texts


def test_a_caption_a_line(model: nn.Module, tokenizer: Tokenizer, lines: tuple[Path, list[list[str]]]) -> None:
    root, texts = lines
    found = ours(model, tokenizer, root / "test", {"name": "retrieval"})
    assert (found["images"], found["texts"]) == (60, sum(map(len, texts)))
    agree(found, their_retrieval(model, root))


@pytest.mark.parametrize("form", ["pictures", "groups"])
def test_a_row_a_caption(
    model: nn.Module, tokenizer: Tokenizer, lines: tuple[Path, list[list[str]]], tmp_path: Path, form: str
) -> None:
    """As img2dataset writes COCO: the picture again for each caption, captions of a picture not side by side."""
    root, texts = lines
    rows = sorted((at, n) for n, own in enumerate(texts) for at in range(len(own)))
    if form == "pictures":
        samples = [
            (f"{i:06d}", {"jpg": jpeg(n, detail=3), "txt": texts[n][at].encode()}) for i, (at, n) in enumerate(rows)
        ]
        write_tar(tmp_path / "0.tar", samples)
    else:
        # Of a group, the first picture counts.
        images = [jpeg(n, detail=3) if at == 0 else jpeg(1000 + n) for at, n in rows]
        table = {"image": images, "caption": [texts[n][at] for at, n in rows], "group_id": [n for _, n in rows]}
        pq.write_table(pa.table(table), tmp_path / "rows.parquet", row_group_size=50)
    found = ours(model, tokenizer, tmp_path, {"name": "retrieval"})
    assert (found["images"], found["texts"]) == (60, len(rows))
    agree(found, their_retrieval(model, root))


def test_a_row_an_image_is_theirs_on_the_tar_as_it_is(model: nn.Module, tokenizer: Tokenizer, tmp_path: Path) -> None:
    samples = [(f"{n:06d}", {"png": png(n), "txt": captions(n, 1)[0].encode()}) for n in range(40)]
    root = folder(tmp_path, [samples], dataset_type="retrieval")
    agree(
        ours(model, tokenizer, root / "test", {"name": "retrieval", "merge_images": False}),
        their_retrieval(model, root),
    )


@pytest.mark.parametrize("form", ["\n\n", "\n", "", "  \n", "\r\n\x0c", "two\n\nof them", "\ufeffcat\n"])
@pytest.mark.parametrize("every", [1, 5])
def test_blank_lines(model: nn.Module, tokenizer: Tokenizer, tmp_path: Path, form: str, every: int) -> None:
    """`form` ends every caption file, or is every fifth one."""
    texts = ["\n".join(captions(n, 2)) for n in range(60)]
    texts = [text + form if every == 1 else form if n % 5 == 0 else text for n, text in enumerate(texts)]
    samples = [(f"s{n:07d}", {"jpg": jpeg(n, detail=3), "txt": text.encode()}) for n, text in enumerate(texts)]
    root = folder(tmp_path, [samples[:40], samples[40:]], dataset_type="retrieval")
    found = ours(model, tokenizer, root / "test", {"name": "retrieval"})
    assert (found["images"], found["texts"]) == (60, sum(len(text.splitlines()) for text in texts))
    assert found["skipped"]["no_text"] == 0
    agree(found, their_retrieval(model, root))


@pytest.mark.parametrize("number", [50, 200])
@pytest.mark.parametrize("equal", ["bytes", "pixels"])
@pytest.mark.parametrize("copies", [2, 5])
def test_equal_pictures(
    model: nn.Module, tokenizer: Tokenizer, tmp_path: Path, copies: int, equal: str, number: int
) -> None:
    """A row a caption: which of the equal pictures is found is a draw that torch decides, by the number of rows."""
    samples = [
        (f"{n:06d}", {"png": png(n // copies, n if equal == "pixels" else 0), "txt": captions(n, 1)[0].encode()})
        for n in range(number)
    ]
    root = folder(tmp_path, [samples], dataset_type="retrieval")
    theirs = their_retrieval(model, root, batch_size=number)
    agree(ours(model, tokenizer, root / "test", {"name": "retrieval", "merge_images": False}), theirs)


def test_more_than_ten_tars(model: nn.Module, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Their order decides which of equal captions comes first."""
    samples = [
        (f"{n:06d}", {"jpg": jpeg(n, detail=3), "txt": "\n".join(captions(n % 9, 2)).encode()}) for n in range(60)
    ]
    root = folder(tmp_path, [samples[at : at + 5] for at in range(0, 60, 5)], dataset_type="retrieval")
    agree(ours(model, tokenizer, root / "test", {"name": "retrieval"}), their_retrieval(model, root, batch_size=60))


def test_captions_that_are_equal_to_the_tokenizer(model: nn.Module, tokenizer: Tokenizer, tmp_path: Path) -> None:
    texts = [[text.upper() if n % 2 else text for text in captions(n // 4, 2)] for n in range(80)]
    texts[7] = [" ".join(WORDS * 9), " ".join(WORDS * 10)]
    samples = [(f"{n:06d}", {"jpg": jpeg(n, detail=3), "txt": "\n".join(own).encode()}) for n, own in enumerate(texts)]
    root = folder(tmp_path, [samples], dataset_type="retrieval")
    theirs = their_retrieval(model, root, batch_size=80)
    agree(ours(model, tokenizer, root / "test", {"name": "retrieval"}), theirs)


def test_of_several_pictures_theirs(model: nn.Module, tokenizer: Tokenizer, tmp_path: Path) -> None:
    endings = ["jpg", "jpeg", "png", "webp"]
    samples = []
    for n in range(40):
        pair = endings[n % 4], endings[(n // 4) % 4]
        pictures = {ending: png(2 * n + at) for at, ending in enumerate(pair)}
        samples.append((f"{n:06d}", {**pictures, "txt": captions(n, 1)[0].encode()}))
    root = folder(tmp_path, [samples], dataset_type="retrieval")
    agree(ours(model, tokenizer, root / "test", {"name": "retrieval"}), their_retrieval(model, root))


def png(seed: int, comment: int = 0) -> bytes:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo
    from small_datasets import picture

    out, about = io.BytesIO(), PngInfo()
    about.add_text("comment", str(comment))
    Image.fromarray(picture(seed, detail=3)).save(out, "png", pnginfo=about)
    return out.getvalue()


def class_samples(classes: int) -> Iterator[tuple[str, dict[str, bytes]]]:
    for n in range(90):
        yield f"s{n:07d}", {"jpg": jpeg(n, detail=2), "cls": str(n * 7 % classes).encode()}


@pytest.mark.parametrize(
    "names",
    ["distinct", "shared", "four", "marked", "many", "cased", "spaced", "blank end", "blank ends", "blank", "template"],
)
def test_classes_by_number(model: nn.Module, tokenizer: Tokenizer, tmp_path: Path, names: str) -> None:
    listed = {
        "distinct": WORDS,
        "shared": ["crane", *WORDS[:5], "crane", "maillot", *WORDS[5:], "maillot", "maillot"],
        "four": ["crane", "dog", "crane", "cat"],
        "marked": ["\ufeffcat", *WORDS],
        "many": [f"{a} {b}" for a in WORDS[:7] for b in WORDS] * 5,
        "cased": ["Cat", "cat", "dog", "DOG", "x", "y"],
        "spaced": [
            "red  cat",
            "red cat",
            "red&amp;blue",
            "red&blue",
            "caf\u00e9",
            "cafe\u0301",
            " ".join(WORDS * 9),
            *WORDS,
        ],
        "blank end": [*WORDS, ""],
        "blank ends": [*WORDS, "", " "],
        "blank": [*WORDS[:5], "", *WORDS[5:], "", "cat"],
        "template": WORDS,
    }[names]
    templates = ["a photo of a {c}.", *([""] if names == "template" else []), "{c}", "the {c} in the rain"]
    root = folder(
        tmp_path,
        [list(class_samples(len(listed)))],
        classnames="\n".join(listed) + "\n",
        zeroshot_classification_templates="\n".join(templates) + "\n",
    )
    kind = {
        "name": "zero_shot",
        "class_names": str(root / "classnames.txt"),
        "templates": str(root / "zeroshot_classification_templates.txt"),
    }
    found, theirs = ours(model, tokenizer, root / "test", kind), their_classification(model, root)
    if len(listed) < 5:
        assert math.isnan(theirs.pop("acc5"))
    assert found["images"] == 90 and found["skipped"]["no_label"] == 0
    agree(found, theirs)


def test_class_numbers_of_a_column(model: nn.Module, tokenizer: Tokenizer, tmp_path: Path) -> None:
    root = folder(tmp_path, [list(class_samples(len(WORDS)))], classnames="\n".join(WORDS))
    kind = {"name": "zero_shot", "class_names": str(root / "classnames.txt")}
    expected = ours(model, tokenizer, root / "test", kind)
    rows = list(class_samples(len(WORDS)))
    images, numbers = [m["jpg"] for _, m in rows], [int(m["cls"]) for _, m in rows]
    for name, dataset in (("label", {}), ("fine", {"text_column": "fine"})):
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"image": images, name: pa.array(numbers, pa.uint8())}), path)
        assert ours(model, tokenizer, path, kind, **dataset)["metrics"] == expected["metrics"]
