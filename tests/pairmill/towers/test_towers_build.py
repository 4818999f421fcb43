import json
import math
import shutil
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from pydantic import ValidationError
from tiny_text import write_bert

from pairmill.errors import RecipeError
from pairmill.towers.architecture import resolve_architecture, resolve_weights
from pairmill.towers.build import (
    Patches,
    build_from_description,
    build_model,
    image_size,
    image_statistics,
    model_description,
)
from pairmill.towers.config import ModelConfig

CONFIGS = Path(__file__).parent / "configs"
ALL = ("vit", "vit_custom_text", "siglip", "resnet", "coca")


def build(name: str, **keys: Any) -> Any:
    torch.manual_seed(0)
    return build_model(recipe(name, **keys), temperature_init=None, bias_init=None)


def recipe(name: str, **keys: Any) -> ModelConfig:
    return ModelConfig(architecture=str(CONFIGS / f"{name}.json"), **keys)


def saved(model: torch.nn.Module, folder: Path) -> str:
    torch.save(model.state_dict(), folder / "model.pt")
    return str(folder / "model.pt")


@pytest.mark.parametrize("name", ALL)
def test_every_kind_of_architecture_is_built_and_encodes(name: str) -> None:
    model = build(name).eval()
    with torch.inference_mode():
        features = model.encode_image(torch.randn(2, 3, 64, 64))
    assert features.shape == (2, json.loads((CONFIGS / f"{name}.json").read_text())["embed_dim"])
    assert image_size(model) == 64
    assert image_statistics(model) == (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)


def test_a_built_in_name_is_the_architecture_of_open_clip() -> None:
    for name in ("ViT-B-32", "ViT-B/32"):
        plain = resolve_architecture(ModelConfig(architecture=name))
        assert plain.model_cfg == open_clip.get_model_config("ViT-B-32")


def test_a_tag_brings_its_activation_and_its_statistics() -> None:
    tuned = resolve_architecture(ModelConfig(architecture="ViT-B-32", pretrained="openai"))
    assert tuned.model_cfg["quick_gelu"] is True
    siglip = resolve_architecture(ModelConfig(architecture="ViT-B-16-SigLIP", pretrained="webli"))
    assert siglip.preprocess["mean"] == (0.5, 0.5, 0.5)


def test_temperature_and_bias_hold_over_a_checkpoints() -> None:
    model = build_model(recipe("vit"), temperature_init=0.02, bias_init=-10.0)
    assert model.logit_scale.exp().item() == pytest.approx(50)
    assert model.logit_bias.item() == -10
    assert build("vit").logit_bias is None
    assert build("vit").logit_scale.item() == pytest.approx(math.log(1 / 0.07))


def test_a_checkpoints_temperature_is_kept_unless_one_is_given(tmp_path: Path) -> None:
    path = saved(build_model(recipe("vit"), temperature_init=0.5, bias_init=None), tmp_path)
    assert build("vit", pretrained=path).logit_scale.exp().item() == pytest.approx(2)
    again = build_model(recipe("vit", pretrained=path), temperature_init=0.1, bias_init=None)
    assert again.logit_scale.exp().item() == pytest.approx(10)


def test_equal_seeds_draw_equal_weights() -> None:
    first, second = build("vit").state_dict(), build("vit").state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"architecture": "ViT-B-33"}, "ViT-B-32"),
        ({"architecture": "no/such.json"}, "no/such.json"),
        ({"architecture": "local-dir:no/such"}, "no/such"),
        ({"architecture": "local-dir:"}, "local-dir"),
        ({"architecture": "ViT-B-32", "pretrained": "openay"}, "openai"),
        ({"architecture": str(CONFIGS / "vit.json"), "pretrained": "no/such.pt"}, "no/such.pt"),
        ({"architecture": str(CONFIGS / "vit.json"), "pretrained": str(CONFIGS)}, "open_clip_model.safetensors"),
        ({"architecture": str(CONFIGS / "vit.json"), "pretrained": str(CONFIGS / "vit.json")}, "it is a text"),
        ({"architecture": f"local-dir:{CONFIGS}", "pretrained": "openai"}, "brings its own weights"),
        ({"architecture": str(CONFIGS / "resnet.json"), "patch_dropout": 0.5}, "ResNet"),
        ({"architecture": str(CONFIGS / "resnet.json"), "gradient_checkpointing": True}, "checkpoint"),
        ({"architecture": str(CONFIGS / "vit.json"), "text_model": "no/such"}, "no/such"),
    ],
)
def test_what_cannot_be_built_is_the_recipes_error(
    keys: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline(monkeypatch)
    with pytest.raises(RecipeError, match=says):
        build_model(ModelConfig(**keys), temperature_init=None, bias_init=None)


def test_a_hub_out_of_reach_is_the_recipes_error(monkeypatch: pytest.MonkeyPatch) -> None:
    offline(monkeypatch)
    for keys in ({"architecture": "hf-hub:nobody/nothing"}, {"architecture": "ViT-B-16-SigLIP", "pretrained": "webli"}):
        with pytest.raises(RecipeError, match="must be within reach"):
            build_model(ModelConfig(**keys), temperature_init=None, bias_init=None)


def test_weights_of_an_unknown_tag_are_refused_by_themselves() -> None:
    with pytest.raises(RecipeError, match="must be a tag of ViT-B-32"):
        resolve_weights(ModelConfig(architecture="ViT-B-32", pretrained="openay"))


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.parametrize(
    ("content", "says"), [("{", "JSON"), ('{"embed_dim": 3}', "vision_cfg, text_cfg"), ("[]", "embed_dim")]
)
def test_a_file_that_is_no_architecture_is_refused(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(RecipeError, match=says):
        build_model(ModelConfig(architecture=str(tmp_path / "bad.json")), temperature_init=None, bias_init=None)


def test_an_unknown_key_of_an_architecture_is_refused(tmp_path: Path) -> None:
    architecture = json.loads((CONFIGS / "vit.json").read_text())
    architecture["vision_cfg"]["widht"] = 3
    (tmp_path / "bad.json").write_text(json.dumps(architecture))
    with pytest.raises(RecipeError, match="widht"):
        build_model(ModelConfig(architecture=str(tmp_path / "bad.json")), temperature_init=None, bias_init=None)


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="weights must fit"):
        build("vit", pretrained=saved(build("resnet"), tmp_path))


def test_a_recipe_with_an_unknown_key_is_refused() -> None:
    with pytest.raises(ValidationError):
        ModelConfig(architecure="ViT-B-32")
    with pytest.raises(ValidationError):
        ModelConfig(lock_text={"freeze_batch_norm": True})


def test_a_longer_context_interpolates_the_position_embedding_linearly(tmp_path: Path) -> None:
    model = build("vit")
    longer = build("vit", pretrained=saved(model, tmp_path), context_length=63)
    expected = torch.nn.functional.interpolate(model.positional_embedding.T[None], size=63, mode="linear")[0].T
    assert longer.context_length == 63 and longer.attn_mask.shape == (63, 63)
    torch.testing.assert_close(longer.positional_embedding, expected)


def test_another_image_size_interpolates_the_position_embedding(tmp_path: Path) -> None:
    model = build("vit")
    model.visual.positional_embedding.data[1:] = 3.0
    larger = build("vit", pretrained=saved(model, tmp_path), image_size=96)
    assert image_size(larger) == 96
    assert larger.visual.positional_embedding.shape[0] == 6 * 6 + 1
    torch.testing.assert_close(larger.visual.positional_embedding[1:], torch.full((36, 64), 3.0))


def test_a_checkpoint_is_found_in_its_folder(tmp_path: Path) -> None:
    model = build("vit_custom_text")
    saved(model, tmp_path)
    again = build("vit_custom_text", pretrained=str(tmp_path))
    torch.testing.assert_close(again.state_dict(), model.state_dict(), rtol=0, atol=0)


def learning(model: torch.nn.Module, prefix: str) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad and name.startswith(prefix)}


def test_locked_towers_do_not_learn() -> None:
    model = build("vit_custom_text", lock_image={"locked": True}, lock_text={"locked": True})
    assert learning(model, "") == {"logit_scale"}


def test_unlocked_groups_are_counted_from_the_output() -> None:
    model = build("vit", lock_image={"locked": True, "unlocked_groups": 2})
    prefixes = ("visual.proj", "visual.ln_post", "visual.transformer.resblocks.1.")
    assert learning(model, "visual.") == {n for n, _ in model.named_parameters() if n.startswith(prefixes)}
    assert learning(model, "transformer.")
    model = build("vit", lock_text={"locked": True, "unlocked_groups": 1})
    assert learning(model, "t") == {"text_projection"} and learning(model, "visual.")


def test_a_resnet_is_locked_as_a_whole_with_its_statistics(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="as a whole"):
        build("resnet", lock_image={"locked": True, "unlocked_groups": 1})
    model = build("resnet", lock_image={"locked": True, "freeze_batch_norm": True})
    images = torch.randn(2, 3, 64, 64)
    before = model.encode_image(images)
    assert not learning(model, "visual.")
    torch.testing.assert_close(model.eval().encode_image(images), before)
    torch.testing.assert_close(
        build("resnet", pretrained=saved(model, tmp_path)).eval().encode_image(images), before, rtol=1e-5, atol=1e-6
    )


def test_gradient_checkpointing_changes_no_gradient() -> None:
    tokens, images = torch.randint(1, 49000, (2, 32)), torch.randn(2, 3, 64, 64)
    gradients = []
    for checkpointing in (False, True):
        model = build("vit", gradient_checkpointing=checkpointing)
        (model.encode_image(images) * model.encode_text(tokens)).sum().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(gradients[0], gradients[1])


def test_patch_dropout_acts_in_training_only() -> None:
    model, images = build("vit", patch_dropout=0.5), torch.randn(2, 3, 64, 64)
    assert not torch.equal(model.encode_image(images), model.encode_image(images))
    model.eval()
    assert torch.equal(model.encode_image(images), model.encode_image(images))


@pytest.mark.parametrize("name", ALL)
def test_a_description_builds_the_same_model_again(name: str) -> None:
    config = recipe(name, image_size=32, context_length=20)
    model = build_model(config, temperature_init=0.07, bias_init=-1.0).eval()
    description = json.loads(json.dumps(model_description(config, model)))
    again: Any = build_from_description(description)
    again.load_state_dict(model.state_dict(), strict=True)
    images, tokens = torch.randn(2, 3, 32, 32), torch.randint(1, 49000, (2, 20))
    with torch.inference_mode():
        assert torch.equal(again.encode_image(images), model.encode_image(images))
        assert torch.equal(again.encode_text(tokens), model.encode_text(tokens))
    assert image_statistics(again) == image_statistics(model)
    assert image_size(again) == 32


def test_a_hugging_face_tower_is_built_from_its_weights_and_again_without_its_folder(tmp_path: Path) -> None:
    from transformers import AutoModel

    folder = write_bert(tmp_path / "bert")
    config = recipe("vit", text_model=str(folder), context_length=40)
    model = build_model(config, temperature_init=0.07, bias_init=None).eval()
    own = AutoModel.from_pretrained(folder).embeddings.word_embeddings.weight
    assert torch.equal(model.text.transformer.embeddings.word_embeddings.weight, own)
    drawn = build_model(config.model_copy(update={"text_model_weights": False}), temperature_init=0.07, bias_init=None)
    assert not torch.equal(drawn.text.transformer.embeddings.word_embeddings.weight, own)

    description = json.loads(json.dumps(model_description(config, model)))
    shutil.rmtree(folder)
    again: Any = build_from_description(description)
    again.load_state_dict(model.state_dict(), strict=True)
    tokens = torch.randint(4, 100, (2, 12))
    with torch.inference_mode():
        assert torch.equal(again.encode_text(tokens), model.encode_text(tokens))


def test_a_timm_tower_keeps_the_size_of_its_name(tmp_path: Path) -> None:
    vision = {"timm_model_name": "test_vit", "image_size": 160, "timm_pool": "avg"}
    text = {"context_length": 16, "width": 32, "heads": 2, "layers": 1}
    (tmp_path / "timm.json").write_text(json.dumps({"embed_dim": 32, "vision_cfg": vision, "text_cfg": text}))
    config = ModelConfig(architecture=str(tmp_path / "timm.json"))
    model: Any = build_model(config, temperature_init=None, bias_init=None)
    assert model.encode_image(torch.randn(1, 3, 160, 160)).shape == (1, 32)
    with pytest.raises(RecipeError, match="timm"):
        build_model(config.model_copy(update={"image_size": 128}), temperature_init=None, bias_init=None)


@pytest.mark.parametrize("size", [64, 72])
def test_patches_are_what_the_convolution_gives(size: int) -> None:
    random = torch.Generator().manual_seed(0)
    patches = Patches(3, 5, (16, 8), (16, 8), dtype=torch.float64)
    images, weights = (torch.randn(2, c, h, w, dtype=torch.float64, generator=random) for c, h, w in _shapes(size))
    found = []
    for convolve in (patches.forward, super(Patches, patches).forward):
        patches.zero_grad()
        out = convolve(images)
        (out * weights).sum().backward()
        found.append((out.detach(), patches.weight.grad.clone(), patches.bias.grad.clone()))  # type: ignore[union-attr]
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)


def _shapes(size: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    return (3, size, size), (5, size // 16, size // 8)


@pytest.mark.parametrize("name", ["vit", "siglip", "coca"])
def test_patch_embeddings_are_matrix_products(name: str) -> None:
    model = build(name)
    assert [type(m) for m in model.visual.modules() if isinstance(m, torch.nn.Conv2d)] == [Patches]
