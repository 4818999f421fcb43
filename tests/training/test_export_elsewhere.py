"""A folder with files of its own for texts (tower, tokenizer) loads where it lies, whatever became of their source."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.tokenizer import HFTokenizer

from pairmill.towers.build import build_model, model_description
from pairmill.towers.config import ModelConfig
from pairmill.towers.model_folder import load_exported
from pairmill.towers.tokenizer import Tokenizer, open_tokenizer
from training.export import export_open_clip, is_local
from training.export_check import differences, open_clip_side, own_side

VIT = Path(__file__).parents[1] / "pairmill" / "towers" / "configs" / "vit.json"
TEXTS = ["", "a dog on the beach", "A red, ripe apple!", "海滩上的一只狗", "long " * 60]


def write_tower(folder: Path) -> Path:
    """A tiny BERT behind a tokenizer without a Rust part: bytes, ByT5's."""
    from transformers import BertConfig, BertModel, ByT5Tokenizer

    tokenizer = ByT5Tokenizer()
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(
        BertConfig(vocab_size=len(tokenizer), pad_token_id=0, max_position_embeddings=40, **sizes)
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Any], Tokenizer]:
    """Model, description and tokenizer, whose files are gone."""
    folder = write_tower(tmp_path_factory.mktemp("source") / "tower")
    config = ModelConfig(architecture=str(VIT), text_model=str(folder))
    torch.manual_seed(0)
    model: Any = build_model(config, temperature_init=None, bias_init=None).eval()
    found = model, model_description(config, model), open_tokenizer(config)
    shutil.rmtree(folder)
    return found


def encoded(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval().encode_text(tokens)  # type: ignore[no-any-return]


def loads(folder: Path, model: Any) -> None:
    """Plain open_clip loads the folder and gives the features of the model."""
    loaded, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(TEXTS)
    torch.testing.assert_close(encoded(loaded, tokens), encoded(model, tokens), rtol=0, atol=1e-6)
    exported = load_exported(folder)
    found = differences(own_side(exported.model, exported.tokenizer), open_clip_side(folder))
    assert all(one.same for one in found if one.kind == "texts")


def test_a_checkpoint_is_written_for_the_place_it_is_moved_to(source: Any, tmp_path: Path) -> None:
    scratch, final = tmp_path / "scratch" / "checkpoint", tmp_path / "run" / "step-1"
    export_open_clip(source[0].state_dict(), source[1], source[2], scratch, home=str(final))
    final.parent.mkdir()
    scratch.rename(final)
    loads(final, source[0])


def test_the_place_of_a_checkpoint_is_ray_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    import pyarrow.fs as pafs
    from ray.train.v2._internal.execution.storage import StorageContext

    from training import checkpoint

    def placed(storage: StorageContext) -> str:
        context = SimpleNamespace(get_storage=lambda: storage)
        monkeypatch.setattr(checkpoint.ray_train, "get_context", lambda: context)
        return checkpoint._home("step-1")

    assert placed(StorageContext(str(tmp_path), "run")) == str(tmp_path / "run" / "step-1")
    elsewhere = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    assert placed(StorageContext("bucket", "run", storage_filesystem=elsewhere)) == "."


def test_a_moved_folder_is_exported_again_for_its_new_place(source: Any, tmp_path: Path) -> None:
    export_open_clip(source[0].state_dict(), source[1], source[2], tmp_path / "first")
    moved = (tmp_path / "first").rename(tmp_path / "moved")
    model, tokenizer, _, description = load_exported(moved)
    export_open_clip(model.state_dict(), description, tokenizer, tmp_path / "again")
    shutil.rmtree(moved)
    loads(tmp_path / "again", source[0])
    assert str(moved) not in (tmp_path / "again" / "open_clip_config.json").read_text()


def test_the_cards_code_loads_a_moved_folder_in_plain_open_clip(source: Any, tmp_path: Path) -> None:
    export_open_clip(source[0].state_dict(), source[1], source[2], tmp_path / "out" / "named")
    (tmp_path / "out").rename(tmp_path / "moved")
    card = (tmp_path / "moved" / "named" / "README.md").read_text(encoding="utf-8")
    code = card.partition("```python\n")[2].partition("```")[0]
    code += "import torch\ntorch.save(model.eval().encode_text(tokenizer(['a dog'])), 'features.pt')\n"
    env = {**os.environ, "PYTHONPATH": "", "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "moved", env=env, check=True, capture_output=True)
    ids = torch.tensor(source[2](["a dog"])[0][None].astype("int64"))
    found = torch.load(tmp_path / "moved" / "features.pt", weights_only=True)
    torch.testing.assert_close(found, encoded(source[0], ids), rtol=0, atol=1e-6)


def test_the_weights_alone_load_into_the_architecture_by_name(
    source: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("open_clip.factory._MODEL_CONFIG_PATHS", list(open_clip.factory._MODEL_CONFIG_PATHS))
    monkeypatch.setattr("open_clip.factory._MODEL_CONFIGS", dict(open_clip.factory._MODEL_CONFIGS))
    export_open_clip(source[0].state_dict(), source[1], source[2], tmp_path / "out")
    shutil.copy(tmp_path / "out" / "architecture.json", tmp_path / "of-bytes.json")
    open_clip.add_model_config(tmp_path / "of-bytes.json")
    weights = str(tmp_path / "out" / "open_clip_model.safetensors")
    loaded, _, _ = open_clip.create_model_and_transforms("of-bytes", pretrained=weights)
    tokens = open_clip.get_tokenizer("of-bytes")(TEXTS)
    torch.testing.assert_close(encoded(loaded, tokens), encoded(source[0], tokens), rtol=0, atol=1e-6)


def test_hub_ids_stay_and_paths_do_not(tmp_path: Path) -> None:
    for hub in ("xlm-roberta-base", "FacebookAI/xlm-roberta-base", "google/mt5-base", "timm/ViT-B-16-SigLIP"):
        assert not is_local(hub)
    for path in ("/gone/bert", "models/of/bert", "./bert", "~/bert", "sp.model", "data/sp.model", str(tmp_path)):
        assert is_local(path)
    assert not is_local(None) and not is_local("")


def as_lists(rows: Any) -> list[list[int]]:
    return [[int(i) for i in row] for row in rows]


def write_python_tokenizer(name: str, folder: Path) -> Path:
    from transformers import ByT5Tokenizer, ProphetNetTokenizer

    if name == "byt5":
        ByT5Tokenizer().save_pretrained(folder)
        return folder
    pieces = ["[PAD]", "[UNK]", "[SEP]", "[CLS]", "[MASK]", "[X_SEP]", *"abcdefghijklmnopqrstuvwxyz"]
    pieces += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    (folder.parent / "vocabulary.txt").write_text("\n".join(pieces), encoding="utf-8")
    ProphetNetTokenizer(str(folder.parent / "vocabulary.txt")).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("name", "strip", "end"), [("byt5", False, 1), ("prophetnet", False, 2), ("prophetnet", True, 0)]
)
def test_a_tokenizer_without_a_rust_part_gives_open_clips_ids(name: str, strip: bool, end: int, tmp_path: Path) -> None:
    folder = write_python_tokenizer(name, tmp_path / "tokenizer")
    architecture = json.loads(VIT.read_text())
    architecture["text_cfg"] |= {
        **{"hf_tokenizer_name": str(folder), "pool_type": "last"},
        "tokenizer_kwargs": {"clean": "lower", "strip_sep_token": strip},
    }
    (tmp_path / "own.json").write_text(json.dumps(architecture))
    tokenizer = open_tokenizer(ModelConfig(architecture=str(tmp_path / "own.json")))
    padded = HFTokenizer(str(folder), context_length=32, clean="lower", strip_sep_token=strip)(TEXTS).tolist()
    found = as_lists(tokenizer(TEXTS))
    assert [row + [tokenizer.pad_id] * (32 - len(row)) for row in found] == padded
    assert tokenizer.end_id == end

    assert as_lists(pickle.loads(pickle.dumps(tokenizer))(TEXTS)) == found
    tokenizer.save(tmp_path / "saved")
    saved = HFTokenizer(str(tmp_path / "saved"), context_length=32, clean="lower", strip_sep_token=strip)
    assert saved(TEXTS).tolist() == padded
