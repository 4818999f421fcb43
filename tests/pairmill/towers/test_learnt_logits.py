"""What a checkpoint has learnt of temperature and bias stays, unless the recipe says otherwise."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from pairmill.towers.build import build_model, model_description
from pairmill.towers.config import ModelConfig
from pairmill.towers.tokenizer import open_tokenizer
from training.export import export_open_clip
from training.recipe import TrainRecipe
from training.schedule import TemperatureConfig
from training.worker import build

CONFIGS = Path(__file__).parent / "configs"


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `clip/` (scale 100) and `siglip/` (scale 117.3, bias -16.5), as an export writes them."""
    folder = tmp_path_factory.mktemp("learnt")
    for name, architecture, scale, bias in (("clip", "vit", 100.0, None), ("siglip", "vit", 117.3, -16.5)):
        config = ModelConfig(architecture=str(CONFIGS / f"{architecture}.json"))
        model = build_model(config, temperature_init=1 / scale, bias_init=bias)
        export_open_clip(model.state_dict(), model_description(config, model), open_tokenizer(config), folder / name)
    return folder


def start(
    model: dict[str, Any], objective: Any, temperature: dict[str, Any] | None = None
) -> tuple[float, float | None]:
    """Logit scale and bias that a recipe starts from."""
    recipe = TrainRecipe.checked(
        {
            "run_dir": "unused",
            "data": {"path": "unused", "batch_size": 8},
            "model": model,
            "loss": {"objective": objective},
            "temperature": temperature or {},
            "train": {"steps": 1},
        }
    )
    built: Any = build(recipe)
    return built.logit_scale.exp().item(), None if built.logit_bias is None else built.logit_bias.item()


def test_a_folder_keeps_its_temperature_and_bias(learnt: Path) -> None:
    scale, bias = start({"architecture": f"local-dir:{learnt / 'clip'}"}, "clip")
    assert scale == pytest.approx(100) and bias is None
    scale, bias = start({"architecture": f"local-dir:{learnt / 'siglip'}"}, "siglip")
    assert scale == pytest.approx(117.3) and bias == -16.5
    # Softmax takes no notice of the bias; it is the model's all the same.
    assert start({"architecture": f"local-dir:{learnt / 'siglip'}"}, "clip")[1] == -16.5


def test_a_file_of_weights_keeps_them_too(learnt: Path) -> None:
    keys = {
        "architecture": str(CONFIGS / "vit.json"),
        "pretrained": str(learnt / "siglip" / "open_clip_model.safetensors"),
    }
    assert start(keys, "siglip") == (pytest.approx(117.3), -16.5)


def test_a_bias_in_a_file_is_kept_whatever_the_objective(learnt: Path) -> None:
    keys = {
        "architecture": str(CONFIGS / "vit.json"),
        "pretrained": str(learnt / "siglip" / "open_clip_model.safetensors"),
    }
    assert start(keys, "clip") == (pytest.approx(117.3), -16.5)


def test_what_the_recipe_says_holds_over_them(learnt: Path) -> None:
    keys = {"architecture": f"local-dir:{learnt / 'siglip'}"}
    scale, bias = start(keys, {"name": "siglip", "bias_init": -10}, {"init": 0.1})
    assert scale == pytest.approx(10) and bias == -10


def test_a_bias_that_no_checkpoint_brings_is_the_objectives(learnt: Path) -> None:
    scale, bias = start({"architecture": f"local-dir:{learnt / 'clip'}"}, "siglip")
    assert scale == pytest.approx(100) and bias == -10


def test_from_scratch_the_objective_says_where_they_begin() -> None:
    keys = {"architecture": str(CONFIGS / "vit.json")}
    assert start(keys, "siglip") == (pytest.approx(10), -10)
    assert start(keys, "clip") == (pytest.approx(1 / 0.07), None)
    assert start(keys, {"name": "siglip", "bias_init": -3})[1] == -3


def test_a_learnt_scale_above_the_limit_of_clip_is_the_limit() -> None:
    assert TemperatureConfig().highest(14.3) == 100
    assert TemperatureConfig().highest(117.3) == 117.3
    assert TemperatureConfig(max=100).highest(117.3) == 100


def test_weights_of_a_half_precision_model_keep_their_scale(tmp_path: Path) -> None:
    model: Any = build_model(
        ModelConfig(architecture=str(CONFIGS / "vit.json")), temperature_init=0.01, bias_init=None
    ).half()
    torch.save(model.state_dict(), tmp_path / "half.pt")
    keys = {"architecture": str(CONFIGS / "vit.json"), "pretrained": str(tmp_path / "half.pt")}
    assert math.log(start(keys, "clip")[0]) == pytest.approx(math.log(100), abs=2e-3)
