"""A larger model that starts from a smaller one: what it computes, what is drawn, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from safetensors.torch import save_file
from torch import Tensor, nn

from pairmill.errors import RecipeError
from pairmill.towers.architecture import CONFIG_FILE
from pairmill.towers.build import build_model
from pairmill.towers.config import ModelConfig
from pairmill.towers.encode import encode_text
from pairmill.towers.weights import WEIGHTS_FILE

Architecture = dict[str, Any]
SMALL: Architecture = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 300, "width": 32, "heads": 2, "layers": 2},
}
IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
TEXTS = torch.randint(1, 299, (4, 9), generator=torch.Generator().manual_seed(0)).index_fill(1, torch.tensor([8]), 299)


def larger(vision: dict[str, Any] | None = None, text: dict[str, Any] | None = None, **keys: Any) -> Architecture:
    towers = {
        "vision_cfg": {**SMALL["vision_cfg"], **(vision or {})},
        "text_cfg": {**SMALL["text_cfg"], **(text or {})},
    }
    return {**SMALL, **towers, **keys}


def built(folder: Path, architecture: Architecture, seed: int, **keys: Any) -> Any:
    file = folder / "architecture.json"
    file.write_text(json.dumps(architecture))
    torch.manual_seed(seed)
    return build_model(ModelConfig.checked({"architecture": str(file), **keys}), temperature_init=None, bias_init=None)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder as an export has it, and its model, whose norms and biases are as if they had learnt."""
    folder = tmp_path_factory.mktemp("small")
    model = built(folder, SMALL, 1).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    (folder / CONFIG_FILE).write_text(json.dumps({"model_cfg": SMALL, "preprocess_cfg": {}}))
    save_file(model.state_dict(), folder / WEIGHTS_FILE)
    return folder, model


def features(model: Any) -> tuple[Tensor, Tensor]:
    model.eval()
    with torch.no_grad():
        return model.encode_image(IMAGES), encode_text(model, TEXTS)


def grown(small: tuple[Path, Any], folder: Path, architecture: Architecture, **grow: Any) -> Any:
    return built(folder, architecture, 2, pretrained=str(small[0]), grow={"momentum": 1, **grow})


TWICE = larger({"width": 64}, {"width": 64, "heads": 4})


@pytest.mark.parametrize(
    "architecture",
    [
        TWICE,
        {**TWICE, "custom_text": True},
        larger({"width": 96}, {"width": 64, "heads": 4}),
        larger({"mlp_ratio": 5.3}, {"mlp_ratio": 4.6}),
        larger({"layers": 3}, {"layers": 5}),
        larger({"width": 64, "layers": 4}, {"width": 96, "heads": 6, "layers": 3}),
    ],
)
def test_wider_models_and_layers_that_add_nothing_compute_the_same(
    small: tuple[Path, Any], tmp_path: Path, architecture: Architecture
) -> None:
    model = grown(small, tmp_path, architecture, new_layers="identity")
    for found, wanted in zip(features(model), features(small[1]), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert model.logit_scale == small[1].logit_scale


def test_a_wider_embedding_is_the_same_one_again(small: tuple[Path, Any], tmp_path: Path) -> None:
    model = grown(small, tmp_path, {**TWICE, "embed_dim": 48})
    image, text = features(model)
    of_small = features(small[1])
    torch.testing.assert_close(image, of_small[0].repeat(1, 2), rtol=1e-4, atol=1e-5)
    cosines = F.normalize(image, dim=1)[:, None] @ F.normalize(text, dim=1).T
    wanted = F.normalize(of_small[0], dim=1)[:, None] @ F.normalize(of_small[1], dim=1).T
    torch.testing.assert_close(cosines, wanted, rtol=1e-4, atol=1e-5)


def test_a_further_layer_is_the_one_before_it_once_more(small: tuple[Path, Any], tmp_path: Path) -> None:
    model = grown(small, tmp_path, larger({"layers": 3}, {"layers": 4}))
    folder, _ = small
    again: Any = built(tmp_path, SMALL, 3, pretrained=str(folder))
    image, text = (tower.resblocks for tower in (again.visual.transformer, again.transformer))
    again.visual.transformer.resblocks = nn.ModuleList([image[0], image[0], image[1]])
    again.transformer.resblocks = nn.ModuleList([text[0], text[0], text[1], text[1]])
    for found, wanted in zip(features(model), features(again), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_the_rest_of_a_weight_is_drawn(small: tuple[Path, Any], tmp_path: Path) -> None:
    drawn, whole = built(tmp_path, TWICE, 2).state_dict(), grown(small, tmp_path, TWICE).state_dict()
    mixed = grown(small, tmp_path, TWICE, momentum=0.9)
    for name, value in mixed.named_parameters():
        wanted = whole[name] if name == "logit_scale" else 0.9 * whole[name] + 0.1 * drawn[name]
        torch.testing.assert_close(value.detach(), wanted, msg=name)
    weight = mixed.visual.conv1.weight
    assert torch.equal(whole["visual.conv1.weight"][:32], whole["visual.conv1.weight"][32:])
    assert not torch.equal(weight[:32], weight[32:])
    assert ModelConfig.checked({"pretrained": "x", "grow": {}}).grow.momentum == 0.9  # type: ignore[union-attr]  # is set


def test_positions_are_interpolated_as_of_other_weights(small: tuple[Path, Any], tmp_path: Path) -> None:
    more = larger({"width": 64, "image_size": 64}, {"width": 64, "heads": 4, "context_length": 20})
    model = grown(small, tmp_path, more)
    plain = built(tmp_path, larger({"image_size": 64}, {"context_length": 20}), 3, pretrained=str(small[0]))
    for of_larger, of_small in (
        (model.visual.positional_embedding, plain.visual.positional_embedding),
        (model.positional_embedding, plain.positional_embedding),
    ):
        torch.testing.assert_close(of_larger, of_small.repeat(1, 2))


@pytest.mark.parametrize(
    ("architecture", "said"),
    [
        (larger({"layers": 1}), "the image tower must not be smaller[^|]*layers: 1, not 2"),
        (larger(None, {"width": 16, "heads": 1}), "the text tower must not be smaller[^|]*width: 16, not 32"),
        ({**SMALL, "embed_dim": 8}, "embedding: 8, not 24"),
        (larger({"width": 64, "head_width": 32}), "heads of the image tower must be as wide[^|]*32, not 16"),
        (larger(None, {"vocab_size": 400}), "must fit the architecture"),
        (larger({"layers": [1, 1, 1, 1]}), "must be null for towers that are not[^|]*ModifiedResNet"),
        (larger({"attentional_pool": True}), "must be null for towers that are not"),
    ],
)
def test_what_cannot_grow_is_refused(
    small: tuple[Path, Any], tmp_path: Path, architecture: Architecture, said: str
) -> None:
    with pytest.raises(RecipeError, match=said):
        grown(small, tmp_path, architecture)


def test_the_smaller_model_must_say_what_it_is(small: tuple[Path, Any], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"model\.pretrained must be set with model\.grow"):
        ModelConfig.checked({"grow": {}})
    bare = tmp_path / "bare.safetensors"
    save_file(small[1].state_dict(), bare)
    with pytest.raises(RecipeError, match="must be the folder of a checkpoint or an export"):
        grown((bare, None), tmp_path, TWICE)
    (tmp_path / "model.npz").write_bytes(b"")
    with pytest.raises(RecipeError, match="big_vision"):
        grown((tmp_path / "model.npz", None), tmp_path, TWICE)


def test_a_recipe_without_growth_is_what_it_was() -> None:
    assert "grow" not in ModelConfig().identity()
    assert ModelConfig.checked({"pretrained": "x", "grow": {}}).identity()["grow"]["momentum"] == 0.9
