"""Feed-forward heads over both towers: what they compute, what learns, and where a model with them can go."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from test_step import recipe as step_recipe
from test_step import rows_of
from torch import Tensor

from pairmill.errors import RecipeError, UserError
from pairmill.towers.architecture import CONFIG_FILE
from pairmill.towers.build import build_model, model_description
from pairmill.towers.config import ModelConfig
from pairmill.towers.embed import embed_images, embed_texts
from pairmill.towers.encode import encode_image, encode_text
from pairmill.towers.model_folder import load_exported
from pairmill.towers.token_features import encode_image_tokens, encode_text_tokens
from pairmill.towers.tokenizer import open_tokenizer
from pipelines.models import export_model
from training.checkpoint import Describe, Parts, Progress, write
from training.export import export_open_clip
from training.gather import Exchange
from training.model import DualEncoder
from training.objectives.declaration import Setup
from training.worker import build

VIT = str(Path(__file__).parents[1] / "pairmill" / "towers" / "configs" / "vit.json")
HEADS = {"own_layers": 1, "shared_layers": 2, "ratio": 0.5}
RANDOM = torch.Generator().manual_seed(0)
IMAGES = torch.randn(2, 3, 64, 64, generator=RANDOM)
TEXTS = torch.randint(1, 300, (3, 7), generator=RANDOM).index_fill(1, torch.tensor([6]), 49407)


def built(seed: int = 0, **keys: Any) -> tuple[Any, ModelConfig]:
    torch.manual_seed(seed)
    config = ModelConfig.checked({"architecture": VIT, **keys})
    return build_model(config, temperature_init=None, bias_init=None).eval(), config


@pytest.fixture(scope="module")
def learnt() -> tuple[Any, ModelConfig]:
    """A model whose heads change something."""
    model, config = built(vl_ffn=HEADS)
    with torch.no_grad():
        for parameter in model.vl_ffn.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=RANDOM))
    return model, config


def through(x: Tensor, layers: Any) -> Tensor:
    """The layers by their equation."""
    for layer in layers:
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
        normed = (x - mean) / (variance + 1e-5).sqrt() * layer.norm.weight + layer.norm.bias
        up = normed @ layer.up.weight.T + layer.up.bias
        x = x + (up * torch.distributions.Normal(0, 1).cdf(up)) @ layer.down.weight.T + layer.down.bias
    return x


def test_each_modality_has_layers_of_its_own_and_shares_the_rest(learnt: tuple[Any, ModelConfig]) -> None:
    model, _ = learnt
    with torch.no_grad():
        image = through(through(model.encode_image(IMAGES), model.vl_ffn.image), model.vl_ffn.shared)
        padded = F.pad(TEXTS, (0, 32 - 7))
        text = through(through(model.encode_text(padded), model.vl_ffn.text), model.vl_ffn.shared)
        torch.testing.assert_close(encode_image(model, IMAGES), image, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(encode_text(model, TEXTS), text, rtol=1e-4, atol=1e-5)
        # Tokens live in the same space.
        patches, words = encode_image_tokens(model, IMAGES), encode_text_tokens(model, TEXTS)
        torch.testing.assert_close(patches.image_BD, image, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(words.tokens_BLD[:, -1], text, rtol=1e-4, atol=1e-5)
        assert not words.tokens_BLD[~words.mask_BL].any()
    assert [len(getattr(model.vl_ffn, name)) for name in ("image", "text", "shared")] == [1, 1, 2]
    assert model.vl_ffn.shared[0].up.weight.shape == (24, 48)


def test_at_the_start_they_change_nothing(tmp_path: Path) -> None:
    plain, config = built()
    folder = tmp_path / "plain"
    export_open_clip(plain.state_dict(), model_description(config, plain), open_tokenizer(config), folder)
    model, _ = built(1, vl_ffn=HEADS, pretrained=str(folder))
    assert torch.equal(encode_image(model, IMAGES), plain.encode_image(IMAGES))
    assert torch.equal(encode_text(model, TEXTS), encode_text(plain, TEXTS))


def test_both_towers_train_the_shared_layers() -> None:
    used = step_recipe(model={"vl_ffn": HEADS, "patch_dropout": None}, loss={"objective": "clip", "tile": [4, 8]})
    module, rows = DualEncoder(build(used), "fp32"), rows_of(0, 0, 1)
    objective = used.loss.opened()
    objective.begin(Setup(48, 2, 8, 0, 1, (4, 8), 0, torch.device("cpu")))
    features, parameters = module(rows), dict(module.named_parameters())
    constant = {
        "image": features._replace(text_BKD=features.text_BKD.detach()),
        "text": features._replace(image_BD=features.image_BD.detach()),
    }
    for side, other in (("image", "text"), ("text", "image")):
        total = objective(constant[side], rows, Exchange()).total
        found = torch.autograd.grad(total, list(parameters.values()), retain_graph=True, allow_unused=True)
        gradients = dict(zip(parameters, found, strict=True))
        for learns in ("shared.0", "shared.1", f"{side}.0"):
            gradient = gradients[f"model.vl_ffn.{learns}.down.weight"]
            assert gradient is not None and gradient.any(), learns
        assert gradients[f"model.vl_ffn.{other}.0.down.weight"] is None


def test_a_checkpoint_is_loaded_embedded_and_trained_from_and_not_exported(
    learnt: tuple[Any, ModelConfig], tmp_path: Path
) -> None:
    model, config = learnt
    folder = tmp_path / "step-1"
    describe = Describe(model_description(config, model), open_tokenizer(config))
    write(folder, Parts(model.state_dict(), {}, None, None), Progress(1, "", {}, None), describe)
    again = load_exported(folder)
    torch.manual_seed(5)
    begun = build_model(ModelConfig(architecture=f"local-dir:{folder}"), temperature_init=None, bias_init=None).eval()
    pixels = np.zeros((1, 64, 64, 3), np.uint8)
    for other in (again.model, begun):
        assert torch.equal(encode_image(other, IMAGES), encode_image(model, IMAGES))
        assert torch.equal(encode_text(other, TEXTS), encode_text(model, TEXTS))
        # As evaluate and embed do.
        how: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
        assert torch.equal(embed_images(other, pixels, **how), embed_images(model, pixels, **how))
        tokenizer = again.tokenizer
        assert torch.equal(embed_texts(other, tokenizer, ["a dog"]), embed_texts(model, tokenizer, ["a dog"]))
    for form in ("open_clip", "huggingface"):
        with pytest.raises(UserError, match=r"must be without model\.vl_ffn"):
            export_model(str(folder), tmp_path / "export", form)
    assert not (tmp_path / "export").exists()
    with pytest.raises(RecipeError, match=r"it has besides: vl_ffn\."):
        built(pretrained=str(folder))
    assert (
        built(2, vl_ffn=HEADS, pretrained=str(folder))[0]
        .vl_ffn.image[0]
        .up.weight.equal(model.vl_ffn.image[0].up.weight)
    )


def test_a_model_without_heads_is_what_it_was(tmp_path: Path) -> None:
    model, config = built()
    assert "vl_ffn" not in config.identity() and "vl_ffn" not in model_description(config, model)
    assert not any(name.startswith("vl_ffn") for name in model.state_dict())
    folder = tmp_path / "model"
    export_open_clip(model.state_dict(), model_description(config, model), open_tokenizer(config), folder)
    assert json.loads((folder / CONFIG_FILE).read_text()).keys() == {"name", "model_cfg", "preprocess_cfg"}
