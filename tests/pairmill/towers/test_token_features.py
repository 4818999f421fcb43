"""Features of patches and tokens: against the towers' own, text by text; and who cannot give them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_towers_encode import CONFIGS, CONTEXT, END, build, padded
from tiny_text import write_bert

from pairmill.errors import IntegrityError, RecipeError
from pairmill.towers.build import build_model
from pairmill.towers.config import ModelConfig
from pairmill.towers.encode import encode_text
from pairmill.towers.token_features import check_tokens, encode_image_tokens, encode_text_tokens

LENGTHS = (2, 12, 7, 3, 1)


def built(folder: Path, vision: dict[str, Any], text: dict[str, Any], **keys: Any) -> Any:
    plain = json.loads((CONFIGS / "vit.json").read_text())
    vision = vision if "timm_model_name" in vision else plain["vision_cfg"] | vision
    config = plain | {"vision_cfg": vision, "text_cfg": plain["text_cfg"] | text, "custom_text": True}
    (folder / "own.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    used = ModelConfig(architecture=str(folder / "own.json"), **keys)
    return build_model(used, temperature_init=None, bias_init=None).double().eval()


@pytest.mark.parametrize("vision", [{}, {"pool_type": "avg"}, {"final_ln_after_pool": True}, {"no_ln_pre": True}])
def test_patches_are_the_last_states_in_the_space_of_the_embeddings(tmp_path: Path, vision: dict[str, Any]) -> None:
    model = built(tmp_path, vision, {})
    check_tokens(model, "a test")
    pixels = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    found = encode_image_tokens(model, pixels)
    torch.testing.assert_close(found.image_BD, model.encode_image(pixels), rtol=0, atol=1e-12)
    torch.testing.assert_close(found.tower_BW @ model.visual.proj, found.image_BD, rtol=0, atol=1e-12)
    visual, states = model.visual, []
    visual.transformer.register_forward_hook(lambda module, given, out: states.append(out))
    visual(pixels)
    for at in range(3):
        for patch in range(16):
            expected = visual.ln_post(states[0][at, 1 + patch]) @ visual.proj
            torch.testing.assert_close(found.tokens_BPD[at, patch], expected, rtol=0, atol=1e-12)
    assert found.tokens_BPD.shape == (3, 16, 48)


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["avg", "token"])
@pytest.mark.parametrize("proj", [None, "linear"])
def test_a_timm_tower_has_patches_too(tmp_path: Path, pool: str, proj: str | None) -> None:
    vision = {"timm_model_name": "test_vit", "image_size": 160, "timm_pool": pool, "timm_proj": proj}
    model = built(tmp_path, {key: value for key, value in vision.items() if value is not None}, {})
    check_tokens(model, "a test")
    pixels = torch.randn(2, 3, 160, 160, dtype=torch.float64)
    found = encode_image_tokens(model, pixels)
    torch.testing.assert_close(found.image_BD, model.encode_image(pixels), rtol=0, atol=1e-12)
    assert found.tokens_BPD.shape == (2, 100, 48)
    torch.testing.assert_close(model.visual.head(found.tower_BW), found.image_BD, rtol=0, atol=1e-12)
    if pool == "avg" and proj == "linear":  # the mean of what a linear map makes is what it makes of the mean
        trunk = model.visual.trunk
        expected = model.visual.head(trunk.fc_norm(trunk.forward_features(pixels)[:, trunk.num_prefix_tokens :]))
        torch.testing.assert_close(found.tokens_BPD, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["vit", "vit_custom_text", "vit_qk_norm"])
@pytest.mark.parametrize("length", [12, CONTEXT])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_tokens_of_packed_texts_are_those_of_each_text_alone(name: str, length: int, checkpointed: bool) -> None:
    model = build(name).double()
    check_tokens(model, "a test")
    tower = getattr(model, "text", model)
    tower.transformer.grad_checkpointing = checkpointed
    tokens = padded(LENGTHS, END, CONTEXT)[:, :length]
    found = encode_text_tokens(model, tokens)
    assert found.mask_BL.sum(1).tolist() == list(LENGTHS)
    torch.testing.assert_close(found.text_BD, encode_text(model, tokens), rtol=0, atol=1e-12)
    torch.testing.assert_close(found.tower_BW @ tower.text_projection, found.text_BD, rtol=0, atol=1e-12)
    whole = torch.nn.functional.pad(tokens, (0, CONTEXT - length))
    x = tower.token_embedding(whole) + tower.positional_embedding
    tower.transformer.grad_checkpointing = False
    expected = tower.ln_final(tower.transformer(x, attn_mask=tower.attn_mask)) @ tower.text_projection
    for row, own in enumerate(LENGTHS):
        torch.testing.assert_close(found.tokens_BLD[row, :own], expected[row, :own], rtol=0, atol=1e-10)
        assert not found.tokens_BLD[row, own:].any()
    gradients = []
    for made in (found.tokens_BLD[found.mask_BL], expected[:, :length][found.mask_BL]):
        model.zero_grad()
        made.pow(3).sum().backward()
        gradients.append(tower.token_embedding.weight.grad.clone())
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("pooler", ["mean_pooler", "cls_pooler"])
def test_a_hugging_face_tower_has_tokens(tmp_path: Path, pooler: str) -> None:
    bert = str(write_bert(tmp_path / "bert"))
    model = built(tmp_path, {}, {"hf_pooler_type": pooler}, text_model=bert)
    check_tokens(model, "a test")
    lengths = (*[2, 7, 3] * 8, *[20] * 20, 0)  # more than one group, and an unused slot
    tokens = padded(lengths[:-1], 3, CONTEXT)
    tokens = torch.cat([tokens, torch.zeros_like(tokens[:1])])
    found = encode_text_tokens(model, tokens)
    torch.testing.assert_close(found.text_BD, encode_text(model, tokens), rtol=0, atol=1e-10)
    torch.testing.assert_close(model.text.proj(found.tower_BW), found.text_BD, rtol=0, atol=1e-12)
    assert found.tokens_BLD.isfinite().all()
    first = pooler == "cls_pooler"
    for row, own in enumerate(lengths[:-1]):
        states = model.text.transformer(input_ids=tokens[row : row + 1, :own]).last_hidden_state
        expected = model.text.proj(states)[0, first:]
        torch.testing.assert_close(found.tokens_BLD[row, first:own], expected, rtol=0, atol=1e-8)
        assert found.mask_BL[row].tolist() == [first <= place < own for place in range(CONTEXT)]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet", "needs patches .*\n.*ModifiedResNet"),
        ("coca", "needs patches .*\n.*pools by attention"),
    ],
)
def test_towers_without_tokens_are_refused(name: str, said: str) -> None:
    with pytest.raises(RecipeError, match=f"token_max {said}"):
        check_tokens(build(name), "token_max")


def test_a_tower_without_a_text_tower_of_its_own_must_pool_at_the_end(tmp_path: Path) -> None:
    config = json.loads((CONFIGS / "vit.json").read_text())
    config["text_cfg"]["pool_type"] = "last"
    (tmp_path / "last.json").write_text(json.dumps(config))
    model = build_model(ModelConfig(architecture=str(tmp_path / "last.json")), temperature_init=None, bias_init=None)
    with pytest.raises(RecipeError, match=r"token_max needs tokens of texts: .*\n.*pool_type: last"):
        check_tokens(model, "token_max")


@pytest.mark.parametrize(
    ("name", "text", "pad"),
    [
        ("siglip", {}, 1),  # as SigLIP's: the end is the padding too
        ("coca", {}, 0),
        ("vit", {"no_causal_mask": True}, 0),
    ],
)
def test_towers_that_take_the_padding_have_tokens_of_the_text_alone(
    tmp_path: Path, name: str, text: dict[str, Any], pad: int
) -> None:
    model = built(tmp_path, {}, text) if text else build(name).double().eval()
    if name != "coca":  # whose images have no patches
        check_tokens(model, "a test")
    tower = model.text
    tokens = torch.full((4, tower.context_length), pad)
    lengths = (2, 5, tower.context_length, 0)
    for row, length in enumerate(lengths):
        tokens[row, :length] = torch.randint(4, 400, (length,))
    tokens[1, 2] = pad  # within a text
    found = encode_text_tokens(model, tokens, pad_id=pad)
    assert found.mask_BL.sum(1).tolist() == list(lengths)
    torch.testing.assert_close(found.text_BD[:3], encode_text(model, tokens[:3]), rtol=0, atol=1e-12)
    assert found.text_BD.isfinite().all() and not found.tokens_BLD[~found.mask_BL].any()
    for row, length in enumerate(lengths[:3]):
        x, mask = tower._embeds(tokens[row : row + 1])
        states = tower.ln_final(tower.transformer(x, attn_mask=mask))[0, :length]
        expected = states @ tower.text_projection if name != "siglip" else tower.text_projection(states)
        torch.testing.assert_close(found.tokens_BLD[row, :length], expected, rtol=0, atol=1e-12)


def test_a_text_longer_than_the_context_is_an_error() -> None:
    with pytest.raises(IntegrityError, match="must truncate"):
        encode_text_tokens(build("vit"), torch.ones(1, CONTEXT + 1, dtype=torch.long))
