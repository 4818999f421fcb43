"""An objective with terms: weights, schedules, names of state and heads, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from entries import basic
from remembering import PATH

from pairmill.errors import RecipeError
from training.gather import Exchange
from training.model import Features, Own, Rows
from training.objectives.by_name import _features, _rows
from training.objectives.config import LossConfig
from training.objectives.declaration import Objective, Setup, When

SETUP = Setup(6, 3, 7, 0, 1, (1024, 2048), 0, torch.device("cpu"))


def opened(**loss: Any) -> Objective:
    objective = LossConfig.checked(loss, at="loss").opened()
    objective.begin(SETUP)
    return objective


def given(objective: Objective) -> tuple[Features, Rows]:
    tensors = basic(7, 3, 6)
    return _features(objective, tensors), _rows(tensors)


def at(objective: Objective, step: int, steps: int = 10) -> tuple[float, dict[str, float]]:
    objective.when = When(step, steps, 5)
    features, rows = given(objective)
    output = objective(features, rows, Exchange())
    return output.total.item(), {name: part.item() for name, part in output.parts.items()}


def test_a_total_is_the_base_and_its_weighted_terms() -> None:
    clip, slots = at(opened(), 0)[0], at(opened(objective="per_slot"), 0)[0]
    found, parts = at(opened(terms={"per_slot": {"weight": 0.25}}), 0)
    assert found == pytest.approx(clip + 0.25 * slots)
    assert parts == pytest.approx({"clip": clip, "per_slot": 0.25 * slots})


def test_a_weight_begins_and_grows_where_the_term_says() -> None:
    objective = opened(terms={"late": {"objective": "per_slot", "weight": 2, "start": 0.5, "ramp": 0.2}})
    slots = at(opened(objective="per_slot"), 0)[0]
    found = [at(objective, step)[1].get("late", 0.0) / slots for step in range(10)]
    assert found == pytest.approx([0, 0, 0, 0, 0, 1, 2, 2, 2, 2])


def test_state_and_heads_are_those_of_each_by_its_label() -> None:
    objective = opened(terms={"memory": {"objective": {"name": PATH, "size": 4, "width": 2}}})
    assert {name: list(value.shape) for name, value in objective.state.items()} == {
        "memory.queue": [4, 2],
        "memory.filled": [],
    }
    assert objective.needs == ("teacher",) and objective.teacher_decay == 0.9
    heads = objective.heads(SETUP)
    assert heads is not None
    assert [name for name, _ in heads.named_parameters()] == ["memory.projection", "memory.log_scale"]
    features, rows = given(objective)
    features = features.map(torch.Tensor.float)
    made: Own = heads(features.image_BD, features.text_BKD)
    features = features._replace(own=made, teacher=features._replace(own=made))
    objective.when = When(0, 10, 5)
    output = objective(features, rows, Exchange())
    assert output.parts.keys() == {"clip", "memory"}
    objective.after_step(features, rows, Exchange())
    objective.check_state()
    assert objective.state["memory.filled"] == 4
    again = opened(terms={"memory": {"objective": {"name": PATH, "size": 4, "width": 2}}})
    again.load_state(objective.state)
    assert torch.equal(again.state["memory.queue"], objective.state["memory.queue"])


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        ({"clop": {}}, "perhaps you mean: clip"),
        ({"clip": {}}, "must not name the objective"),
        ({"per_slot": {"wait": 1}}, r"loss\.terms\.per_slot\.wait is not a key"),
        ({"per_slot": {"weight": -1}}, r"loss\.terms\.per_slot\.weight"),
        ({"a.b": {"objective": "per_slot"}}, "lower-case letters"),
        ({"one": {"objective": PATH}, "two": {"objective": {"name": PATH, "decay": 0.5}}}, "agree on the decay"),
    ],
)
def test_terms_that_cannot_be_are_refused(terms: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        opened(terms=terms)


def test_a_recipe_with_terms_is_the_same_when_written_out() -> None:
    config = LossConfig.checked({"terms": {"per_slot": None, "far": {"objective": "siglip", "weight": 0.5}}})
    assert LossConfig.checked(config.model_dump(mode="json")) == config
    assert config.opened().bias_init == -10.0
