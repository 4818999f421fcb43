"""The space as data: what is drawn, what matters, and what is refused."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairmill.errors import RecipeError
from tune.recipe import SweepRecipe
from tune.space import Parameter, check_space, draw_points, recipe_at

TRAIN: dict[str, Any] = {
    "data": {"path": "p", "batch_size": 8},
    "train": {"steps": 40},
    "evaluate": {"every_steps": 10, "datasets": {"val": {"path": "v"}}},
}
BASE: dict[str, Any] = SweepRecipe.checked(
    {"run_dir": "r", "train": TRAIN, "space": {"optim.lr": {"grid": [1]}}, "objectives": [{"metric": "val/x"}]}
).base


def parameter(**kind: Any) -> Parameter:
    return Parameter.checked(kind)


def points(space: dict[str, dict[str, Any]], *, samples: int = 1, seed: int = 0) -> list[dict[str, Any]]:
    return list(draw_points({k: Parameter.checked(v) for k, v in space.items()}, BASE, samples=samples, seed=seed))


def test_a_grid_is_every_combination_in_order() -> None:
    found = points({"loss.objective": {"grid": ["clip", "siglip"]}, "optim.lr": {"grid": [0.1, 0.2]}})
    assert [tuple(point.values()) for point in found] == [
        ("clip", 0.1),
        ("clip", 0.2),
        ("siglip", 0.1),
        ("siglip", 0.2),
    ]


def test_a_key_that_does_not_matter_is_not_in_the_point_and_makes_no_second_trial() -> None:
    found = points(
        {
            "temperature.learnable": {"grid": [True, False]},
            "temperature.final": {"grid": [0.01, 0.02], "when": {"temperature.learnable": False}},
        }
    )
    assert found == [
        {"temperature.learnable": True},
        {"temperature.learnable": False, "temperature.final": 0.01},
        {"temperature.learnable": False, "temperature.final": 0.02},
    ]


def test_when_looks_at_the_recipe_where_the_space_does_not_name_the_key() -> None:
    assert points({"optim.lr": {"grid": [1], "when": {"train.precision": ["bf16", "fp16"]}}}) == [{"optim.lr": 1}]
    assert points({"optim.lr": {"grid": [1], "when": {"train.precision": "fp32"}}}) == [{}]


def test_another_key_changes_no_others_values() -> None:
    alone = points({"optim.lr": {"loguniform": [1e-4, 1e-2]}}, samples=5)
    both = points({"optim.lr": {"loguniform": [1e-4, 1e-2]}, "optim.eps": {"uniform": [1e-8, 1e-6]}}, samples=5)
    assert [point["optim.lr"] for point in both] == [point["optim.lr"] for point in alone]


def test_the_seed_decides() -> None:
    space = {"optim.lr": {"loguniform": [1e-4, 1e-2]}}
    assert points(space, samples=4) == points(space, samples=4)
    assert points(space, samples=4) != points(space, samples=4, seed=1)


def test_samples_cover_a_range_evenly() -> None:
    shares = sorted(
        math.log(p["optim.lr"] / 1e-4) / math.log(100)
        for p in points({"optim.lr": {"loguniform": [1e-4, 1e-2]}}, samples=16)
    )
    gaps = [b - a for a, b in itertools.pairwise(shares)]
    # 16 independent draws leave a gap above 0.12 in nine cases of ten.
    assert max(gaps) < 0.12


@given(st.floats(0, 1, exclude_max=True), st.floats(1e-6, 10), st.floats(1.01, 100), st.integers(1, 20))
def test_what_is_drawn_lies_in_the_range(share: float, low: float, factor: float, parts: int) -> None:
    high = low * factor
    assert low <= parameter(uniform=[low, high]).draw(share) <= high
    assert low <= parameter(loguniform=[low, high]).draw(share) <= high
    step = (high - low) / parts
    drawn = parameter(quniform=[low, high, step]).draw(share)
    assert low - 1e-9 <= drawn <= high + 1e-9
    assert abs((drawn - low) / step - round((drawn - low) / step)) < 1e-3


SIGLIP = {"loss.objective": {"grid": ["clip", "siglip"]}}
OWN_KEY = {"loss.objective.bias_init": {"grid": [-10, -5]}}
OF_SIGLIP = {"loss.objective.bias_init": {"grid": [-10, -5], "when": {"loss.objective": "siglip"}}}


def test_what_is_chosen_by_name_has_keys_of_its_own() -> None:
    found = points({**SIGLIP, **OF_SIGLIP})
    assert found == [
        {"loss.objective": "clip"},
        {"loss.objective": "siglip", "loss.objective.bias_init": -10},
        {"loss.objective": "siglip", "loss.objective.bias_init": -5},
    ]
    chosen = [recipe_at(BASE, point).loss.objective.model_dump() for point in found]
    assert chosen == [{"name": "clip"}, *({"name": "siglip", "bias_init": bias} for bias in (-10.0, -5.0))]
    # The order of the keys does not matter, and an entry that is chosen already keeps its keys.
    backwards = {"loss.objective.bias_init": -5, "loss.objective": "siglip"}
    assert recipe_at(BASE, backwards).loss.objective.model_dump() == chosen[-1]
    other = BASE | {"loss": BASE["loss"] | {"objective": {"name": "siglip", "bias_init": -3.0}}}
    assert recipe_at(other, {"loss.objective": "siglip"}).loss.objective.model_dump()["bias_init"] == -3.0
    assert recipe_at(other, {"loss.objective": "clip"}).loss.objective.model_dump() == {"name": "clip"}


def test_a_whole_entry_is_a_value_too() -> None:
    whole = {"loss.objective": {"grid": ["clip", {"name": "siglip", "bias_init": -7.0}]}}
    lr = {"optim.lr": {"grid": [0.1], "when": {"loss.objective": "siglip"}}}
    check_space({key: Parameter.checked(kind) for key, kind in {**whole, **lr}.items()}, BASE)
    first, second = points({**whole, **lr})
    assert (first, second["optim.lr"]) == ({"loss.objective": "clip"}, 0.1)
    assert recipe_at(BASE, second).loss.objective.model_dump() == {"name": "siglip", "bias_init": -7.0}
    no_more = {"optim.eps": {"grid": [0.1], "when": {"loss.objective.bias_init": -7.0}}}
    assert "optim.eps" in points({**whole, **no_more})[1]


def test_an_entry_may_need_a_key_that_it_brings_by_a_when() -> None:
    lotlip = {"loss.objective": {"grid": ["clip", "lotlip"]}}
    corners = {"model.corner_tokens": {"grid": [2], "when": {"loss.objective": "lotlip"}}}
    space = {key: Parameter.checked(kind) for key, kind in {**lotlip, **corners}.items()}
    check_space(space, BASE)
    assert points({**lotlip, **corners}) == [
        {"loss.objective": "clip"},
        {"loss.objective": "lotlip", "model.corner_tokens": 2},
    ]
    with pytest.raises(RecipeError, match="corner_tokens must be at least 1"):
        check_space({"loss.objective": space["loss.objective"]}, BASE)


def test_a_point_is_a_recipe() -> None:
    recipe = recipe_at(BASE, {"loss": {"objective": "siglip"}, "optim.lr": 0.5}, seed=3, name="t")
    assert (recipe.loss.objective.name, recipe.optim.lr, recipe.train.seed, recipe.name) == ("siglip", 0.5, 3, "t")
    assert BASE["train"]["seed"] == 0, "the base is not changed"


@pytest.mark.parametrize(
    ("key", "grid", "wanted"),
    [
        ("optim.lr", ["1e-5", 1e-3], 1e-5),
        ("optim.lr", [1e-5, 1e-3], "1e-5"),
        ("optim.warmup_steps", [1e1, 20], "10"),
        ("temperature.learnable", ["no", "yes"], False),
        ("temperature.learnable", [False, True], "off"),
    ],
)
def test_when_compares_what_values_mean(key: str, grid: list[Any], wanted: Any) -> None:
    space = {key: {"grid": grid}, "optim.eps": {"grid": [0.5], "when": {key: wanted}}}
    check_space({name: Parameter.checked(one) for name, one in space.items()}, BASE)
    assert points(space) == [{key: grid[0], "optim.eps": 0.5}, {key: grid[1]}]


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({}, "space must have at least one key"),
        ({"optim.lrr": {"grid": [1]}}, r"optim\.lr"),
        ({"optimm.lr": {"grid": [1]}}, "optim"),
        ({"run_dir": {"grid": ["a"]}}, "the sweep gives each trial its own"),
        ({"optim.lr": {"grid": ["fast"]}}, r"space: optim\.lr"),
        ({"optim.lr": {"uniform": [-1, 1]}}, "greater than 0"),
        ({"loss.objective": {"grid": ["clip", "clop"]}}, "clip"),
        ({"optim.lr": {"grid": [1], "when": {"optim.eps": 1}}}, "must matter in some point"),
        ({"loss.objective.name": {"grid": ["clip"]}}, r"chosen by the key above it"),
        (OWN_KEY, r"space: loss\.objective\.bias_init: loss\.objective\.bias_init is not a key"),
        ({**SIGLIP, **OWN_KEY}, "say with `when` which entries have the key"),
        (SIGLIP | {"loss.objective.bias_initt": OF_SIGLIP["loss.objective.bias_init"]}, "perhaps you mean: bias_init"),
        (
            {"optim.lr": {"grid": [1], "when": {"loss.objective": "clip"}}, "loss.objective": {"grid": ["clip"]}},
            "must name keys that stand before",
        ),
        (
            {"loss.objective": {"grid": ["siglip"]}, "optim.lr": {"grid": [1], "when": {"loss.objective": "clip"}}},
            "may have",
        ),
    ],
)
def test_a_space_that_is_wrong_is_refused(space: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        check_space({key: Parameter.checked(kind) for key, kind in space.items()}, BASE)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ({}, "exactly one"),
        ({"grid": []}, "exactly one"),
        ({"grid": [1], "choice": [2]}, "exactly one"),
        ({"uniform": [2, 1]}, "below its highest"),
        ({"uniform": [1, 1]}, "below its highest"),
        ({"loguniform": [0, 1]}, "above 0"),
        ({"quniform": [0, 1, 2]}, "step"),
        ({"uniform": [1]}, "uniform"),
        ({"normal": [0, 1]}, "not a key"),
    ],
)
def test_a_kind_that_is_wrong_is_refused(kind: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        Parameter.checked(kind)
