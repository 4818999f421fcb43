"""Towers that do not see some patches or words: against what they make of the mask token put there by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_token_features import built
from test_towers_encode import CONFIGS, CONTEXT, END, build, padded
from tiny_text import write_bert
from torch import Tensor

from pairmill.errors import RecipeError
from pairmill.towers.build import build_model
from pairmill.towers.config import ModelConfig
from pairmill.towers.hidden_tokens import Hidden
from pairmill.towers.token_features import (
    check_every_patch,
    check_tokens,
    encode_image_tokens,
    encode_images_from_some,
    encode_text_tokens,
    patches_of,
    pixels_of_patch,
    tower_widths,
)

LENGTHS = (2, 12, 7, 3, 1)
#: timm's smallest vision transformer, of 10 × 10 patches.
TIMM: dict[str, Any] = {
    "image_size": 160,
    "timm_model_name": "test_vit",
    "timm_pool": "avg",
    "timm_proj": "linear",
    "timm_model_pretrained": False,
}


def mask_of(width: int) -> Tensor:
    return torch.randn(width, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)


def test_a_hidden_patch_is_the_mask_token_at_its_position(tmp_path: Path) -> None:
    model = built(tmp_path, {}, {})
    visual, widths = model.visual, tower_widths(model)
    pixels = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    where, mask = torch.rand(3, 16) < 0.5, mask_of(widths.image)
    found = encode_image_tokens(model, pixels, Hidden(where, mask))
    for row in range(3):
        states = [visual.class_embedding + visual.positional_embedding[0]]
        for place in range(16):
            top, left = 16 * (place // 4), 16 * (place % 4)
            seen = visual.conv1.weight.flatten(1) @ pixels[row, :, top : top + 16, left : left + 16].flatten()
            states.append((mask if where[row, place] else seen) + visual.positional_embedding[place + 1])
        x = visual.ln_post(visual.transformer(visual.ln_pre(torch.stack(states)[None])))[0] @ visual.proj
        torch.testing.assert_close(found.image_BD[row], x[0], rtol=0, atol=1e-10)
        torch.testing.assert_close(found.tokens_BPD[row], x[1:], rtol=0, atol=1e-10)
    found.tokens_BPD.sum().backward()
    assert mask.grad is not None and mask.grad.any()
    # Nothing of it stays behind.
    torch.testing.assert_close(encode_image_tokens(model, pixels).image_BD, model.encode_image(pixels))


@pytest.mark.parametrize("pool", ["avg", "token"])
def test_what_a_patch_of_timms_shows_does_not_matter_where_it_is_hidden(tmp_path: Path, pool: str) -> None:
    model = built(tmp_path, TIMM | {"timm_pool": pool}, {})
    check_tokens(model, "a test")
    pixels = torch.randn(2, 3, 160, 160, dtype=torch.float64)
    where, mask = torch.zeros(2, 100, dtype=torch.bool), mask_of(tower_widths(model).image).detach()
    where[0, 23] = True  # third row of patches, fourth column
    other = pixels.clone()
    other[0, :, 32:48, 48:64] = 7
    one, two = (encode_image_tokens(model, of, Hidden(where, mask)) for of in (pixels, other))
    torch.testing.assert_close(one.tokens_BPD, two.tokens_BPD, rtol=0, atol=0)
    plain, changed = (encode_image_tokens(model, of) for of in (pixels, other))
    assert (plain.image_BD[0] - changed.image_BD[0]).abs().max() > 1e-3
    assert (plain.image_BD[0] - one.image_BD[0]).abs().max() > 1e-3
    torch.testing.assert_close(plain.tokens_BPD[1], one.tokens_BPD[1], rtol=0, atol=1e-12)


def test_an_image_from_some_patches_is_that_of_these_patches_alone(tmp_path: Path) -> None:
    model = built(tmp_path, {}, {})
    visual, pixels = model.visual, torch.randn(4, 3, 64, 64, dtype=torch.float64)
    few, kept = torch.tensor([False, True, True, False]), torch.stack([torch.randperm(16)[:5].sort().values] * 4)
    kept[2] = torch.tensor([0, 3, 4, 9, 15])
    found = encode_images_from_some(model, pixels, few, kept)
    torch.testing.assert_close(found[~few], model.encode_image(pixels[~few]), rtol=0, atol=1e-12)
    for row in (1, 2):
        places = visual.positional_embedding
        seen = visual.conv1(pixels[row : row + 1]).flatten(2)[0].T[kept[row]] + places[kept[row] + 1]
        x = torch.cat([(visual.class_embedding + places[0])[None], seen])[None]
        expected = visual.ln_post(visual.transformer(visual.ln_pre(x)))[0, 0] @ visual.proj
        torch.testing.assert_close(found[row], expected, rtol=0, atol=1e-10)
    for all_or_none in (torch.ones_like(few), torch.zeros_like(few)):
        whole = encode_images_from_some(model, pixels, all_or_none, torch.arange(16).expand(4, 16))
        torch.testing.assert_close(whole, model.encode_image(pixels), rtol=0, atol=1e-12)


@pytest.mark.parametrize("pool", ["avg", "token"])
def test_what_a_patch_of_timms_shows_does_not_matter_where_it_is_left_out(tmp_path: Path, pool: str) -> None:
    model = built(tmp_path, TIMM | {"timm_pool": pool}, {})
    pixels, few = torch.randn(2, 3, 160, 160, dtype=torch.float64), torch.tensor([True, False])
    other = pixels.clone()
    other[0, :, 32:48, 48:64] = 7  # patch 23
    without, with_it = (torch.tensor([[2, 23 + shift, 40]] * 2) for shift in (1, 0))
    one, two = (encode_images_from_some(model, of, few, without) for of in (pixels, other))
    torch.testing.assert_close(one, two, rtol=0, atol=0)
    one, two = (encode_images_from_some(model, of, few, with_it) for of in (pixels, other))
    assert (one[0] - two[0]).abs().max() > 1e-3
    torch.testing.assert_close(one[1], two[1], rtol=0, atol=0)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_hidden_word_is_the_mask_token_at_its_position(checkpointed: bool) -> None:
    model: Any = build("vit", gradient_checkpointing=checkpointed).double()
    tokens = padded(LENGTHS, END, CONTEXT)
    there = torch.arange(CONTEXT) < torch.tensor(LENGTHS)[:, None]
    where = (torch.rand(tokens.shape, generator=torch.Generator().manual_seed(3)) < 0.5) & there
    mask = mask_of(tower_widths(model).text)
    found = encode_text_tokens(model, tokens, Hidden(where, mask))
    x = torch.where(where[..., None], mask, model.token_embedding(tokens)) + model.positional_embedding
    expected = model.ln_final(model.transformer(x, attn_mask=model.attn_mask)) @ model.text_projection
    torch.testing.assert_close(found.tokens_BLD[there], expected[there], rtol=0, atol=1e-10)
    ends = torch.tensor(LENGTHS) - 1
    torch.testing.assert_close(found.text_BD, expected[range(len(LENGTHS)), ends], rtol=0, atol=1e-10)
    gradients = []
    for made in (found.tokens_BLD[there], expected[there]):
        mask.grad = None
        made.square().sum().backward()
        gradients.append(mask.grad.clone())  # type: ignore[union-attr]  # as the backward pass sets it
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-9)


def test_a_hidden_word_of_a_tower_that_takes_the_padding_is_too() -> None:
    model = build("siglip").double().eval()
    tokens, tower = torch.full((2, CONTEXT), 1), model.text
    tokens[0, :7], tokens[1, :2] = torch.arange(10, 17), torch.arange(20, 22)
    where = torch.zeros_like(tokens, dtype=torch.bool)
    where[0, [1, 4]] = True
    mask = mask_of(tower_widths(model).text).detach()
    found = encode_text_tokens(model, tokens, Hidden(where, mask), pad_id=1)
    x = torch.where(where[..., None], mask, tower.token_embedding(tokens)) + tower.positional_embedding[:CONTEXT]
    states = tower.ln_final(tower.transformer(x))
    torch.testing.assert_close(found.text_BD, tower.text_projection(states[:, -1]), rtol=0, atol=1e-12)
    torch.testing.assert_close(found.tokens_BLD[0, :7], tower.text_projection(states[0, :7]), rtol=0, atol=1e-12)


@pytest.mark.slow
def test_a_hidden_word_of_a_hugging_face_tower_is_too(tmp_path: Path) -> None:
    bert = str(write_bert(tmp_path / "bert"))
    model = built(tmp_path, {}, {"hf_pooler_type": "mean_pooler"}, text_model=bert)
    lengths = (*[2, 7, 3] * 8, *[20] * 20)
    tokens = padded(lengths, 3, CONTEXT)
    there = torch.arange(CONTEXT) < torch.tensor(lengths)[:, None]
    where = (torch.rand(tokens.shape, generator=torch.Generator().manual_seed(3)) < 0.5) & there
    mask = mask_of(tower_widths(model).text).detach()
    found = encode_text_tokens(model, tokens, Hidden(where, mask))
    words = model.text.transformer.get_input_embeddings()
    for row in (0, 1, 30):
        own = lengths[row]
        embeds = torch.where(where[row, :own, None], mask, words(tokens[row, :own]))
        states = model.text.transformer(inputs_embeds=embeds[None]).last_hidden_state
        torch.testing.assert_close(found.tokens_BLD[row, :own], model.text.proj(states)[0], rtol=0, atol=1e-8)


def test_patches_show_what_the_tower_projects(tmp_path: Path) -> None:
    plain = built(tmp_path, {}, {})
    (tmp_path / "timm").mkdir()
    for model, side in ((plain, 64), (built(tmp_path / "timm", TIMM, {}), 160)):
        projection = model.visual.conv1 if side == 64 else model.visual.trunk.patch_embed.proj
        pixels = torch.randn(2, 3, side, side, dtype=torch.float64)
        patches = patches_of(model, pixels)
        assert patches.shape[2] == pixels_of_patch(model)
        expected = patches @ projection.weight.flatten(1).T
        if projection.bias is not None:
            expected = expected + projection.bias
        torch.testing.assert_close(projection(pixels).flatten(2).transpose(1, 2), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("vision", [{"patch_dropout": 0.25}, TIMM | {"patch_dropout": 0.25}])
def test_a_tower_that_leaves_patches_out_is_refused(tmp_path: Path, vision: dict[str, Any]) -> None:
    model = built(tmp_path, vision, {})
    with pytest.raises(RecipeError, match=r"a test needs every patch of an image: .*must be 0\n.*0\.25"):
        check_every_patch(model, "a test")
    (tmp_path / "whole").mkdir()
    check_every_patch(built(tmp_path / "whole", vision, {}, patch_dropout=0.0), "a test")


def test_texts_are_asked_for_only_where_they_are_needed(tmp_path: Path) -> None:
    config = json.loads((CONFIGS / "vit.json").read_text())
    config["text_cfg"]["pool_type"] = "last"
    (tmp_path / "last.json").write_text(json.dumps(config))
    model = build_model(ModelConfig(architecture=str(tmp_path / "last.json")), temperature_init=None, bias_init=None)
    with pytest.raises(RecipeError, match="needs tokens of texts"):
        check_tokens(model, "a test")
    check_tokens(model, "a test", texts=False)
