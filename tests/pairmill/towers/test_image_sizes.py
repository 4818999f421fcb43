"""Image towers on images of other sizes: as open_clip's own tower of that size, with its places interpolated."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from open_clip.model import resize_pos_embed
from test_towers_encode import CONFIGS

from pairmill.errors import RecipeError
from pairmill.towers.build import build_model
from pairmill.towers.config import ModelConfig
from pairmill.towers.image_sizes import interpolated, take_sizes


def built(name: str, **keys: Any) -> Any:
    torch.manual_seed(0)
    config = ModelConfig(architecture=str(CONFIGS / f"{name}.json"), **keys)
    return build_model(config, temperature_init=None, bias_init=None).eval()


def pixels(size: int) -> torch.Tensor:
    return torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(size))


@pytest.mark.parametrize("name", ["vit", "vit_qk_norm", "coca"])
def test_a_vit_is_open_clips_of_that_size_and_unchanged_at_its_own(name: str) -> None:
    model, small = built(name), built(name, image_size=32)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    resize_pos_embed(state, small)
    small.load_state_dict(state)
    before = model.encode_image(pixels(64))
    take_sizes(model, [32, 64])
    assert torch.equal(model.encode_image(pixels(64)), before)
    torch.testing.assert_close(model.encode_image(pixels(32)), small.encode_image(pixels(32)), rtol=0, atol=1e-5)
    assert model.state_dict().keys() == small.state_dict().keys()


def test_a_resnet_pools_a_smaller_grid() -> None:
    model, small = built("resnet"), built("resnet", image_size=32)
    state = model.state_dict()
    places = state["visual.attnpool.positional_embedding"]
    one = F.interpolate(places[1:].T.reshape(1, -1, 2, 2), size=(1, 1), mode="bicubic", antialias=True)
    small.load_state_dict({**state, "visual.attnpool.positional_embedding": torch.cat([places[:1], one.view(1, -1)])})
    before = model.encode_image(pixels(64))
    take_sizes(model, [32])
    assert torch.equal(model.encode_image(pixels(64)), before)
    torch.testing.assert_close(model.encode_image(pixels(32)), small.encode_image(pixels(32)), rtol=0, atol=1e-5)


def test_a_timm_vit_is_timms_own_of_any_size() -> None:
    model = built("vit")
    plain, any_size = (
        timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=0, dynamic_img_size=dynamic)
        for dynamic in (False, True)
    )
    any_size.load_state_dict(plain.state_dict())
    from open_clip.timm_model import TimmModel

    tower = TimmModel("vit_tiny_patch16_224", embed_dim=48, pool="", proj="linear")
    tower.trunk, tower.head = plain, torch.nn.Identity()
    model.visual = tower.eval()
    any_size.eval()
    before = tower(pixels(224))
    take_sizes(model, [112])
    assert torch.equal(tower(pixels(224)), before)
    torch.testing.assert_close(tower(pixels(112)), any_size(pixels(112)), rtol=0, atol=1e-5)


def test_gradients_reach_the_towers_own_places() -> None:
    model = built("vit")
    take_sizes(model, [32])
    model.encode_image(pixels(32)).square().sum().backward()
    gradient = model.visual.positional_embedding.grad
    assert gradient.shape == (17, 64) and (gradient.abs().sum(1) > 0).all()


def test_a_copy_keeps_its_own_places() -> None:
    model = built("vit")
    take_sizes(model, [32])
    other = deepcopy(model)
    with torch.no_grad():
        model.visual.positional_embedding.zero_()
        assert not torch.equal(other.encode_image(pixels(32)), model.encode_image(pixels(32)))


@pytest.mark.parametrize(("own", "grid"), [((14, 14), (7, 7)), ((6, 4), (3, 8)), ((2, 2), (1, 1))])
def test_places_are_interpolated_bicubic_and_the_class_tokens_is_not(
    own: tuple[int, int], grid: tuple[int, int]
) -> None:
    places = torch.randn(1 + own[0] * own[1], 5)
    with torch.autocast("cpu", torch.bfloat16):
        found = interpolated(places, own, grid)
    image = places[1:].T.reshape(1, 5, *own)
    expected = F.interpolate(image, size=grid, mode="bicubic", antialias=True).flatten(2)[0].T
    torch.testing.assert_close(found, torch.cat([places[:1], expected]), rtol=0, atol=1e-5)


def test_a_size_that_patches_do_not_divide_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"multiple of the patches .*\n.*40 pixels, patches of 16\n.*use 32"):
        take_sizes(built("vit"), [32, 40])


def test_a_tower_of_one_size_is_refused() -> None:
    model = built("vit")
    model.visual = torch.nn.Linear(2, 2)
    with pytest.raises(RecipeError, match="a ViT or a ResNet"):
        take_sizes(model, [32])
