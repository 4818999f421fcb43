import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_text import write_bert

from pairmill.towers.build import build_model
from pairmill.towers.config import ModelConfig
from training.parameter_groups import parameter_groups

CONFIGS = Path(__file__).parents[1] / "pairmill" / "towers" / "configs"


def build(name: str, **keys: Any) -> Any:
    config = ModelConfig(architecture=str(CONFIGS / f"{name}.json"), **keys)
    return build_model(config, temperature_init=0.07, bias_init=-10.0)


NAMES = ("vit", "siglip", "resnet", "coca")


@functools.cache
def cached(name: str) -> Any:
    return build(name)


def scales(model: Any, layer_decay: float) -> dict[str, float]:
    groups = parameter_groups(model, weight_decay=0.1, layer_decay=layer_decay)
    return {name: group["lr_scale"] for group in groups for name in group["names"]}


@pytest.mark.parametrize("name", NAMES)
def test_who_decays_is_open_clips_rule(name: str) -> None:
    model = cached(name)
    theirs = {
        n
        for n, p in model.named_parameters()
        if not (p.ndim < 2 or "bn" in n or "ln" in n or "bias" in n or "logit_scale" in n)
    }
    none, decay = parameter_groups(model, weight_decay=0.2, layer_decay=None)
    assert (none["weight_decay"], decay["weight_decay"]) == (0.0, 0.2)
    assert set(decay["names"]) == theirs
    assert {"logit_scale", "logit_bias"} <= set(none["names"])
    assert none["lr_scale"] == decay["lr_scale"] == 1.0


@settings(max_examples=30)
@given(st.sampled_from(NAMES), st.none() | st.floats(0.3, 1.0), st.integers(0, 2**32 - 1))
def test_every_parameter_that_learns_is_in_one_group(name: str, layer_decay: float | None, frozen: int) -> None:
    model = cached(name)
    for number, parameter in enumerate(model.parameters()):
        parameter.requires_grad = not (frozen >> (number % 32)) & 1
    learning = [n for n, p in model.named_parameters() if p.requires_grad]
    groups = parameter_groups(model, weight_decay=0.1, layer_decay=layer_decay)
    assert sorted(n for group in groups for n in group["names"]) == sorted(learning)
    named = dict(model.named_parameters())
    for group in groups:
        assert group["params"] and all(p is named[n] for p, n in zip(group["params"], group["names"], strict=True))
    for parameter in model.parameters():
        parameter.requires_grad = True


def test_the_rate_falls_from_the_top_of_each_tower() -> None:
    found = scales(cached("vit"), 0.5)
    assert found["visual.proj"] == found["visual.ln_post.weight"] == found["text_projection"] == 1
    assert found["ln_final.bias"] == found["logit_scale"] == found["logit_bias"] == 1
    assert found["visual.transformer.resblocks.1.mlp.c_fc.weight"] == 0.5
    assert found["transformer.resblocks.1.attn.in_proj_weight"] == 0.5
    assert found["visual.transformer.resblocks.0.ln_1.weight"] == found["transformer.resblocks.0.ln_1.weight"] == 0.25
    assert found["visual.conv1.weight"] == found["visual.class_embedding"] == found["visual.ln_pre.weight"] == 0.125
    assert found["token_embedding.weight"] == found["positional_embedding"] == 0.125


def test_a_resnet_has_its_stages_for_blocks() -> None:
    found = scales(cached("resnet"), 0.5)
    assert found["visual.attnpool.positional_embedding"] == found["visual.attnpool.c_proj.weight"] == 1
    assert found["visual.layer4.0.conv1.weight"] == 0.5
    assert found["visual.layer1.0.bn3.weight"] == 0.5**4
    assert found["visual.conv3.weight"] == found["visual.bn1.bias"] == 0.5**5


def test_a_hugging_face_tower_has_its_layers_for_blocks(tmp_path: Path) -> None:
    found = scales(build("vit", text_model=str(write_bert(tmp_path))), 0.5)
    assert found["text.proj.0.weight"] == 1
    assert found["text.transformer.encoder.layer.1.output.dense.weight"] == 0.5
    assert found["text.transformer.encoder.layer.0.attention.self.query.weight"] == 0.25
    assert found["text.transformer.embeddings.LayerNorm.weight"] == 0.125


def test_a_timm_tower_has_timms_own_groups(tmp_path: Path) -> None:
    (tmp_path / "timm.json").write_text(
        '{"embed_dim": 32, "vision_cfg": {"timm_model_name": "test_vit", "image_size": 160, "timm_pool": "avg"},'
        ' "text_cfg": {"context_length": 16, "width": 32, "heads": 2, "layers": 1}}'
    )
    config = ModelConfig(architecture=str(tmp_path / "timm.json"))
    model: Any = build_model(config, temperature_init=None, bias_init=None)
    found = scales(model, 0.5)
    blocks = len(model.visual.trunk.blocks)
    assert found["visual.head.proj.weight"] == 1
    for number in range(blocks):
        assert found[f"visual.trunk.blocks.{number}.attn.qkv.weight"] == 0.5 ** (blocks - number)
    assert found["visual.trunk.pos_embed"] == 0.5 ** (blocks + 1)


def test_order_is_equal_for_equal_models_and_adamw_takes_the_groups() -> None:
    first, second = (parameter_groups(build("vit"), weight_decay=0.1, layer_decay=0.7) for _ in range(2))
    assert [g["names"] for g in first] == [g["names"] for g in second]
    optimizer = torch.optim.AdamW(first, lr=1e-3)
    assert [g["lr_scale"] for g in optimizer.param_groups] == sorted(g["lr_scale"] for g in first)
