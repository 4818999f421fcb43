"""How images are prepared belongs, in open_clip, to a tag: what an architecture gets that is used without one."""

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest

from pairmill.errors import RecipeError
from pairmill.towers.architecture import resolve_architecture
from pairmill.towers.config import ModelConfig

HALF, CLIP = (0.5, 0.5, 0.5), open_clip.OPENAI_DATASET_MEAN


def prepared(**keys: Any) -> tuple[tuple[float, ...], str, str]:
    """Mean, resize mode and interpolation."""
    found = resolve_architecture(ModelConfig(**{name: str(value) for name, value in keys.items()})).preprocess
    return tuple(found["mean"]), found["resize_mode"], found["interpolation"]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    (tmp_path / "weights.pt").touch()
    return tmp_path / "weights.pt"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ViT-B-16-SigLIP", (HALF, "squash", "bicubic")),
        ("ViT-SO400M-14-SigLIP2", (HALF, "squash", "bicubic")),
        ("ViT-L-14-CLIPA-336", (open_clip.constants.IMAGENET_MEAN, "squash", "bilinear")),
        ("MobileCLIP-S1", ((0.0, 0.0, 0.0), "shortest", "bilinear")),
        ("ViT-B-32", (CLIP, "shortest", "bicubic")),
        ("RN50x4", (CLIP, "shortest", "bicubic")),
    ],
)
def test_what_all_tags_share_is_taken(name: str, expected: object, weights: Path) -> None:
    assert prepared(architecture=name) == expected
    assert prepared(architecture=name, pretrained=weights) == expected


def test_weights_of_an_architecture_whose_tags_differ_are_refused(weights: Path) -> None:
    for name, tags in (("ViT-L-14", "laion2b_s32b_b82k"), ("ViT-H-14", "dfn5b"), ("ViT-H-14-quickgelu", "dfn5b")):
        with pytest.raises(RecipeError, match=rf"model\.preprocess must be given(.|\n)*{tags}"):
            prepared(architecture=name, pretrained=weights)
        assert prepared(architecture=name) == (CLIP, "shortest", "bicubic")  # from scratch, nothing was learnt


def test_the_recipe_names_a_tag(weights: Path) -> None:
    assert prepared(architecture="ViT-L-14", pretrained=weights, preprocess="laion2b_s32b_b82k")[0] == HALF
    assert prepared(architecture="ViT-L-14", pretrained=weights, preprocess="openai")[0] == CLIP
    assert prepared(architecture="ViT-H-14", preprocess="dfn5b")[1] == "squash"
    with pytest.raises(RecipeError, match=r"model\.preprocess must be a tag of ViT-L-14\n(.|\n)*openai"):
        prepared(architecture="ViT-L-14", pretrained=weights, preprocess="openay")


def test_a_configuration_beside_the_weights_says_it_better(weights: Path) -> None:
    model_cfg = open_clip.get_model_config("ViT-B-16-SigLIP")
    config = {"model_cfg": model_cfg, "preprocess_cfg": {"mean": [0.1, 0.2, 0.3], "resize_mode": "longest"}}
    (weights.parent / "open_clip_config.json").write_text(json.dumps(config))
    for pretrained in (weights, weights.parent):
        assert prepared(architecture="ViT-B-16-SigLIP", pretrained=pretrained)[:2] == ((0.1, 0.2, 0.3), "longest")
    (weights.parent / "open_clip_config.json").write_text(json.dumps({"model_cfg": model_cfg}))
    assert prepared(architecture="ViT-B-16-SigLIP", pretrained=weights) == (HALF, "squash", "bicubic")


def test_a_tags_own_preprocessing_is_kept() -> None:
    assert prepared(architecture="ViT-L-14", pretrained="laion2b_s32b_b82k")[0] == HALF
    assert prepared(architecture="ViT-L-14", pretrained="openai")[0] == CLIP
