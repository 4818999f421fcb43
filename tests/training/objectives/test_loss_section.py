"""The section `loss` of a recipe: an objective by name, with keys of its own, and what it starts a model with."""

from __future__ import annotations

import math
from typing import Any

import pytest

from pairmill.errors import RecipeError
from training.objectives.config import OBJECTIVES, LossConfig
from training.recipe import TrainRecipe
from training.worker import build

LEAST: dict[str, Any] = {
    "run_dir": "r",
    "data": {"path": "p"},
    "model": {"architecture": "tests/pairmill/towers/configs/vit.json"},
    "train": {"steps": 4},
}


def test_an_objective_is_a_name_or_a_mapping_with_keys_of_its_own() -> None:
    assert LossConfig().objective.model_dump() == {"name": "clip"}
    assert LossConfig.checked({"objective": "siglip"}).identity()["objective"] == {"name": "siglip", "bias_init": None}
    for wrong, said in (
        ({"name": "clip", "bias_init": -5}, r"loss\.objective\.bias_init is not a key"),
        ({"name": "clop"}, "perhaps you mean: clip"),
        ({"bias_init": -5}, "a mapping with a key `name`"),
    ):
        with pytest.raises(RecipeError, match=said):
            LossConfig.checked({"objective": wrong})


def test_a_recipe_with_every_default_spelled_out_is_the_same_one() -> None:
    recipe = TrainRecipe.checked(LEAST | {"loss": {"objective": {"name": "siglip", "bias_init": -3}}})
    assert TrainRecipe.checked(recipe.model_dump(mode="json")) == recipe


@pytest.mark.parametrize("name", OBJECTIVES.names)
def test_a_model_starts_where_its_objective_says(name: str) -> None:
    needs = OBJECTIVES.get(name).needs
    towers = {"architecture": f"tests/pairmill/towers/configs/{'coca' if 'captions' in needs else 'vit'}.json"}
    least = LEAST | {"model": {**towers, "corner_tokens": 2 * ("text_extra" in needs)}, "loss": {"objective": name}}
    model: Any = build(TrainRecipe.checked(least))
    scale = 10.0 if name == "siglip" else 1 / 0.07
    assert model.logit_scale.item() == pytest.approx(math.log(scale))
    assert (model.logit_bias is None) == (name != "siglip")
    given = least | {"temperature": {"init": 0.5}}
    assert build(TrainRecipe.checked(given)).logit_scale.item() == pytest.approx(math.log(2))


def test_the_bias_is_the_objectives_own_key() -> None:
    given = LEAST | {"loss": {"objective": {"name": "siglip", "bias_init": -3}}}
    model: Any = build(TrainRecipe.checked(given))
    assert model.logit_bias.item() == -3
    with pytest.raises(RecipeError, match=r"temperature\.bias_init is not a key"):
        TrainRecipe.checked(LEAST | {"temperature": {"bias_init": -3}})
