"""A longer context from given weights: all positions interpolated, or the first ones kept (Long-CLIP)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_towers_encode import CONFIGS, CONTEXT
from tiny_text import write_bert
from torch import Tensor

from pairmill.errors import RecipeError
from pairmill.towers.build import build_model
from pairmill.towers.config import ModelConfig
from pairmill.towers.positions import stretched


def built(file: Path | None, name: str = "vit", **keys: Any) -> Any:
    config = ModelConfig(
        architecture=str(CONFIGS / f"{name}.json"), pretrained=None if file is None else str(file), **keys
    )
    return build_model(config, temperature_init=None, bias_init=None)


def saved(folder: Path, name: str = "vit") -> tuple[Path, Tensor]:
    torch.manual_seed(0)
    weights = built(None, name).state_dict()
    torch.save(weights, folder / "weights.pt")
    return folder / "weights.pt", weights.get("positional_embedding", weights.get("text.positional_embedding"))


def test_values_computed_by_hand() -> None:
    # Two kept; the three others, 3, 5 and 9, at twice the distance, and then on as they went from 5 to 9.
    found = stretched(torch.tensor([[1.0], [2.0], [3.0], [5.0], [9.0]]), 8, 2)
    assert found[:, 0].tolist() == [1, 2, 3, 4, 5, 7, 9, 11]
    # At 2/3 of the distance: 0, 3 and 6 become 0, 3/2·3 and no more.
    assert stretched(torch.tensor([[7.0], [0.0], [3.0], [6.0]]), 3, 1)[:, 0].tolist() == [7, 0, 4.5]


def test_from_77_to_248_it_is_long_clips() -> None:
    own = torch.randn(77, 3, dtype=torch.float64)
    found = stretched(own, 248, 20)
    assert torch.equal(found[:20], own[:20])
    for i in range(57):
        for quarter in range(4):
            # The last position goes on from the one before it.
            step = own[min(21 + i, 76)] - own[min(20 + i, 75)]
            torch.testing.assert_close(found[20 + 4 * i + quarter], own[20 + i] + step * quarter / 4)


@pytest.mark.parametrize("name", ["vit", "vit_custom_text"])
def test_the_recipe_decides_which_positions_are_kept(tmp_path: Path, name: str) -> None:
    file, own = saved(tmp_path, name)
    length = 2 * CONTEXT - 4
    plain, long = (built(file, name, context_length=length, kept_positions=kept) for kept in (0, 4))
    found, interpolated = (getattr(model, "text", model).positional_embedding.detach() for model in (long, plain))
    assert torch.equal(found, stretched(own, length, 4))
    # open_clip's: the centre of position 1 lies at 1.5 · 32/60 - 0.5 = 0.3 of the weights.
    torch.testing.assert_close(interpolated[1], 0.7 * own[0] + 0.3 * own[1])
    assert long.encode_text(torch.ones(1, length, dtype=torch.long)).isfinite().all()
    same = built(file, name, kept_positions=4)
    assert torch.equal(getattr(same, "text", same).positional_embedding, own)


def test_the_place_of_an_appended_class_token_is_kept(tmp_path: Path) -> None:
    file, own = saved(tmp_path, "coca")
    places = len(own) - 1
    found = built(file, "coca", context_length=places + 9, kept_positions=5).text.positional_embedding
    assert torch.equal(found, torch.cat([stretched(own[:-1], places + 9, 5), own[-1:]]))


def test_what_cannot_be_stretched_is_refused(tmp_path: Path) -> None:
    file, _ = saved(tmp_path)
    for kept, length in ((31, 64), (40, 64), (16, 16)):
        with pytest.raises(RecipeError, match="kept_positions must be below"):
            built(file, context_length=length, kept_positions=kept)
    with pytest.raises(RecipeError, match="must be 0 for a model from scratch"):
        built(None, context_length=64, kept_positions=20)
    (tmp_path / "weights.npz").touch()
    with pytest.raises(RecipeError, match="in big_vision's form"):
        built(tmp_path / "weights.npz", kept_positions=20)
    bert = {"text_model": str(write_bert(tmp_path / "bert")), "text_model_weights": False}
    torch.save(built(None, **bert).state_dict(), tmp_path / "bert.pt")
    with pytest.raises(RecipeError, match="whose positions cannot be stretched"):
        built(tmp_path / "bert.pt", **bert, kept_positions=20)


def test_identity_of_earlier_recipes_stays() -> None:
    assert not {"kept_positions", "corner_tokens"} & ModelConfig().identity().keys()
    assert ModelConfig(kept_positions=20, corner_tokens=2).identity().items() >= {
        ("kept_positions", 20),
        ("corner_tokens", 2),
    }
