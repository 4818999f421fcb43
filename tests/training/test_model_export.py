import json
import shutil
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors import safe_open

from pairmill.errors import InputError, UserError
from pairmill.towers.build import build_model, model_description
from pairmill.towers.config import ModelConfig
from pairmill.towers.encode import encode_text
from pairmill.towers.model_folder import Exported, load_exported
from pairmill.towers.tokenizer import Tokenizer, open_tokenizer
from training.export import export_open_clip
from training.export_check import differences, own_side, transformers_side
from training.export_transformers import export_transformers

CONFIGS = Path(__file__).parents[1] / "pairmill" / "towers" / "configs"
TEXTS = ["a dog on the beach", "A red, ripe apple!", "海滩上的一只狗"]
IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
ALL = ("vit", "vit_custom_text", "siglip", "resnet")
#: Ours sums the patches of an image in another order than open_clip's convolution.
SAME = 1e-6


def built(config: ModelConfig) -> tuple[Any, dict[str, Any], Tokenizer]:
    torch.manual_seed(0)
    model: Any = build_model(config, temperature_init=0.05, bias_init=None).eval()
    return model, model_description(config, model), open_tokenizer(config)


def recipe(name: str, **keys: Any) -> ModelConfig:
    return ModelConfig(architecture=str(CONFIGS / f"{name}.json"), **keys)


def features(model: Any, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.inference_mode():
        return model.eval().encode_image(IMAGES), model.encode_text(tokens)


def write_bert(folder: Path) -> str:
    """A tiny BERT behind the sample translator's tokenizer, so that their padding is the same id."""
    from transformers import AutoTokenizer, BertConfig, BertModel

    tokenizer = AutoTokenizer.from_pretrained("samples/models/translator")
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(
        vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, max_position_embeddings=40, **sizes
    )
    BertModel(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_plain_open_clip_loads_the_folder(name: str, tmp_path: Path) -> None:
    model, description, tokenizer = built(recipe(name))
    folder = tmp_path / "exported"
    export_open_clip(model.state_dict(), description, tokenizer, folder)

    loaded, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(TEXTS)
    assert tokens.shape == (3, 32)
    torch.testing.assert_close(features(loaded, tokens), features(model, tokens), rtol=0, atol=SAME)
    assert loaded.logit_scale.exp().item() == pytest.approx(20)
    assert transform.transforms[0].size == 64
    assert {p.name for p in tmp_path.iterdir()} == {"exported"}


@pytest.mark.parametrize("name", ["vit", "siglip"])
def test_plain_open_clip_loads_the_weights_into_the_named_architecture(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("open_clip.factory._MODEL_CONFIG_PATHS", list(open_clip.factory._MODEL_CONFIG_PATHS))
    monkeypatch.setattr("open_clip.factory._MODEL_CONFIGS", dict(open_clip.factory._MODEL_CONFIGS))
    model, description, tokenizer = built(recipe(name))
    folder = tmp_path / "exported"
    export_open_clip(model.state_dict(), description, tokenizer, folder)
    number = ALL.index(name)  # open_clip takes any name with `siglip` in it to mean a tokenizer from the network
    (folder / "architecture.json").rename(tmp_path / f"own-{number}.json")
    open_clip.add_model_config(tmp_path / f"own-{number}.json")
    weights = str(folder / "open_clip_model.safetensors")
    loaded, _, _ = open_clip.create_model_and_transforms(f"own-{number}", pretrained=weights)
    tokens = open_clip.get_tokenizer(f"own-{number}")(TEXTS)
    torch.testing.assert_close(features(loaded, tokens), features(model, tokens), rtol=0, atol=SAME)


def test_recipes_overrides_and_low_precision_weights_are_exported_too(tmp_path: Path) -> None:
    model, description, tokenizer = built(recipe("vit", context_length=20, image_size=32, patch_dropout=0.5))
    description["preprocess"]["mean"] = [0.5, 0.5, 0.5]
    export_open_clip(model.to(torch.bfloat16).state_dict(), description, tokenizer, tmp_path / "exported")
    loaded, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'exported'}")
    assert loaded.context_length == 20 and loaded.visual.image_size == (32, 32)
    assert loaded.visual.image_mean == [0.5, 0.5, 0.5]
    assert not hasattr(loaded.visual.patch_dropout, "prob")
    with safe_open(tmp_path / "exported" / "open_clip_model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float32}  # noqa: SIM118  no dict


@pytest.mark.slow
def test_an_export_is_loaded_for_evaluation_and_for_more_training(tmp_path: Path) -> None:
    model, description, tokenizer = built(recipe("vit"))
    folder = tmp_path / "exported"
    export_open_clip(model.state_dict(), description, tokenizer, folder)
    exported = load_exported(folder)
    assert isinstance(exported, Exported) and not exported.model.training
    assert [list(ids) for ids in exported.tokenizer(TEXTS)] == [list(ids) for ids in tokenizer(TEXTS)]
    assert exported.preprocess["size"] == (64, 64)
    tokens = open_clip.get_tokenizer("RN50", context_length=32)(TEXTS)
    torch.testing.assert_close(features(exported.model, tokens), features(model, tokens), rtol=0, atol=SAME)
    for keys in (
        {"architecture": f"local-dir:{folder}"},
        {"architecture": str(CONFIGS / "vit.json"), "pretrained": folder},
    ):
        config = ModelConfig(**{name: str(value) for name, value in keys.items()})
        again = build_model(config, temperature_init=None, bias_init=None)
        torch.testing.assert_close(features(again, tokens), features(model, tokens), rtol=0, atol=SAME)


def test_an_export_with_a_hugging_face_tower_can_be_moved(tmp_path: Path) -> None:
    model, description, tokenizer = built(recipe("vit", text_model=write_bert(tmp_path / "bert")))
    folder = tmp_path / "exported"
    export_open_clip(model.state_dict(), description, tokenizer, folder)
    shutil.rmtree(tmp_path / "bert")
    loaded, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(TEXTS)
    expected = features(model, tokens)
    torch.testing.assert_close(features(loaded, tokens), expected, rtol=0, atol=SAME)

    exported = load_exported(folder.rename(tmp_path / "moved"))
    assert exported.description["name"] == "vit"  # the architecture, not the folder
    torch.testing.assert_close(features(exported.model, tokens), expected, rtol=0, atol=SAME)
    ids = exported.tokenizer(TEXTS)
    assert [list(row) for row in ids] == [list(row) for row in tokenizer(TEXTS)]
    assert [row[: len(own)].tolist() for row, own in zip(tokens, ids, strict=True)] == [own.tolist() for own in ids]
    config = ModelConfig(architecture=f"local-dir:{tmp_path / 'moved'}")
    again = build_model(config, temperature_init=None, bias_init=None)
    assert torch.equal(features(again, tokens)[1], expected[1])
    assert open_tokenizer(config).vocabulary_size == tokenizer.vocabulary_size


def test_frozen_batch_norms_load_in_plain_open_clip(tmp_path: Path) -> None:
    model, description, tokenizer = built(recipe("resnet", lock_image={"locked": True, "freeze_batch_norm": True}))
    export_open_clip(model.state_dict(), description, tokenizer, tmp_path / "exported")
    loaded, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'exported'}")
    tokens = torch.randint(1, 49000, (1, 32))
    torch.testing.assert_close(features(loaded, tokens), features(model, tokens), rtol=1e-5, atol=1e-6)


def test_an_export_does_not_overwrite_and_leaves_nothing_when_it_fails(tmp_path: Path) -> None:
    model, description, tokenizer = built(recipe("vit"))
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    for export in (export_open_clip, export_transformers):
        with pytest.raises(UserError, match="new or an empty folder"):
            export(model.state_dict(), description, tokenizer, tmp_path / "taken")
    with pytest.raises(KeyError):
        export_open_clip({}, description, tokenizer, tmp_path / "failed")
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


def test_what_is_no_export_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        load_exported(tmp_path)
    model, description, tokenizer = built(recipe("vit"))
    folder = tmp_path / "exported"
    export_open_clip(model.state_dict(), description, tokenizer, folder)
    (folder / "open_clip_model.safetensors").write_bytes(b"cut off")
    with pytest.raises(InputError, match="safetensors"):
        load_exported(folder)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "quick_gelu"), [("vit", False), ("vit_custom_text", True)])
def test_transformers_loads_an_openai_style_clip(name: str, quick_gelu: bool, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

    architecture = json.loads((CONFIGS / f"{name}.json").read_text())
    architecture["quick_gelu"] = quick_gelu
    (tmp_path / "clip.json").write_text(json.dumps(architecture))
    model, description, tokenizer = built(ModelConfig(architecture=str(tmp_path / "clip.json")))
    export_transformers(model.state_dict(), description, tokenizer, tmp_path / "exported")

    loaded = CLIPModel.from_pretrained(tmp_path / "exported").eval()
    theirs = AutoTokenizer.from_pretrained(tmp_path / "exported")
    tokens = theirs(TEXTS[:2], padding=True, return_tensors="pt")
    for row, own in zip(tokens.input_ids.tolist(), tokenizer(TEXTS), strict=False):
        assert row[: len(own)] == own.tolist() and set(row[len(own) :]) <= {tokenizer.end_id}
    with torch.inference_mode():
        out = loaded(pixel_values=IMAGES, **tokens)
        images, texts = model.encode_image(IMAGES, normalize=True), encode_text(model, tokens.input_ids)
    torch.testing.assert_close(out.image_embeds, images, rtol=0, atol=1e-5)
    torch.testing.assert_close(out.text_embeds, torch.nn.functional.normalize(texts, dim=-1), rtol=0, atol=1e-5)
    torch.testing.assert_close(loaded.logit_scale, model.logit_scale)
    processor = CLIPImageProcessor.from_pretrained(tmp_path / "exported")
    assert dict(processor.crop_size) == {"height": 64, "width": 64}
    assert list(processor.image_mean) == list(open_clip.OPENAI_DATASET_MEAN)


@pytest.mark.slow
def test_transformers_loads_a_siglip(tmp_path: Path) -> None:
    import sentencepiece
    import timm
    from timm.models.vision_transformer import VisionTransformer
    from transformers import AutoImageProcessor, AutoTokenizer, SiglipModel

    @timm.models.register_model
    def tiny_siglip_of_tests(pretrained: bool = False, **keys: Any) -> VisionTransformer:
        """timm's smallest SigLIP tower has 93 M parameters; this is its class with the same options."""
        sizes = {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 3}
        return VisionTransformer(class_token=False, global_pool="map", num_classes=keys["num_classes"], **sizes)

    emoji = [json.loads(line) for line in Path("samples/emoji/labels.jsonl").read_text(encoding="utf-8").splitlines()]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([row["en"] for row in emoji]),
        model_prefix=str(tmp_path / "pieces"),
        vocab_size=300,
        **{"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "minloglevel": 2},
    )
    architecture = json.loads((CONFIGS / "siglip.json").read_text())
    architecture["embed_dim"] = 32
    architecture["vision_cfg"] = {
        **{"timm_model_name": "tiny_siglip_of_tests", "image_size": 64, "timm_pool": "map", "timm_proj": "none"}
    }
    architecture["text_cfg"]["vocab_size"] = 300
    (tmp_path / "siglip.json").write_text(json.dumps(architecture))
    config = ModelConfig(architecture=str(tmp_path / "siglip.json"), tokenizer=str(tmp_path / "pieces.model"))
    model, description, tokenizer = built(config)
    for name, parameter in model.named_parameters():  # timm draws biases as zeros, which hides where they go
        if name.endswith("bias") and name != "logit_bias":
            torch.nn.init.normal_(parameter, std=0.1)
    description["preprocess"] |= {"resize_mode": "squash", "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    export_transformers(model.state_dict(), description, tokenizer, tmp_path / "exported")

    theirs = AutoTokenizer.from_pretrained(tmp_path / "exported")
    tokens = theirs(TEXTS[:2], padding="max_length", return_tensors="pt")
    assert set(tokens) == {"input_ids"} and tokens.input_ids.shape == (2, 32)
    for row, own in zip(tokens.input_ids.tolist(), tokenizer(TEXTS), strict=False):
        assert row == [*own, *[0] * (32 - len(own))]
    loaded = SiglipModel.from_pretrained(tmp_path / "exported").eval()
    with torch.inference_mode():
        out = loaded(pixel_values=IMAGES, **tokens)
        images, texts = (
            model.encode_image(IMAGES, normalize=True),
            model.encode_text(tokens.input_ids, normalize=True),
        )
    torch.testing.assert_close(out.image_embeds, images, rtol=0, atol=1e-5)
    torch.testing.assert_close(out.text_embeds, texts, rtol=0, atol=1e-5)
    assert loaded.logit_bias.item() == -10
    found = differences(own_side(model.eval(), tokenizer), transformers_side(tmp_path / "exported"))
    assert {one.group for one in found if not one.same} <= {"broken encodings"}
    processor = AutoImageProcessor.from_pretrained(tmp_path / "exported")
    assert dict(processor.size) == {"height": 64, "width": 64} and not processor.do_center_crop


@pytest.mark.parametrize(
    ("name", "part"), [("resnet", "ResNet"), ("siglip", "logit bias"), ("coca", "caption decoder")]
)
def test_a_part_without_counterpart_in_transformers_is_named(name: str, part: str, tmp_path: Path) -> None:
    model, description, tokenizer = built(recipe(name))
    with pytest.raises(UserError, match=part):
        export_transformers(model.state_dict(), description, tokenizer, tmp_path / "exported")
    assert not (tmp_path / "exported").exists()
