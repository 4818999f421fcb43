"""Terms with heads of their own: which parameters they have, what is normalised, and what is drawn where."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from entries import tensors_of
from every_entry import BY_NAME
from torch import Tensor

from pairmill.errors import RecipeError
from training.gather import Exchange
from training.losses.head_losses import balanced, cross_correlation_loss
from training.objectives import loss_by_name
from training.objectives.by_name import _features, _opened, _rows
from training.objectives.config import LossConfig
from training.objectives.declaration import Setup, When

SETUP = Setup(6, 2, 4, 0, 1, (8, 8), 0, torch.device("cpu"))
NAMES = ("backward_compatible", "barlow", "siam", "swav")


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_named_as_the_heads_have_them(name: str) -> None:
    objective = _opened(name, BY_NAME[name].settings[0], "paper")
    heads = objective.heads(SETUP)
    assert heads is not None
    assert sorted(objective.parameters) == sorted(parameter for parameter, _ in heads.named_parameters())


@pytest.mark.parametrize("name", NAMES)
def test_heads_that_are_not_given_are_the_same_every_time(name: str) -> None:
    entry = BY_NAME[name]
    tensors = tensors_of(entry, 6, 2, 6)
    drawn = {key: value for key, value in tensors.items() if key not in _opened(name, {}, "paper").parameters}
    first, again = (loss_by_name(name, drawn, entry.settings[0]).total for _ in range(2))
    assert first == again != loss_by_name(name, tensors, entry.settings[0]).total


def test_correlated_projections_cost_nothing_and_mixed_ones_do() -> None:
    # Four rows, two numbers that are not correlated: C is 1 but for what batch norm's epsilon takes.
    image = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
    mask = torch.ones(4, 1, dtype=torch.bool)

    def loss(text: Tensor) -> float:
        return cross_correlation_loss(image, text[:, None], mask, 0.5, Exchange()).item()

    assert loss(3 * image + 7) == pytest.approx(0, abs=1e-8)
    # Exchanged numbers: C is 0 on the diagonal, 1 beside it.
    assert loss(image.flip(1)) == pytest.approx(2 + 0.5 * 2, abs=1e-4)


def test_an_assignment_is_balanced() -> None:
    cosines = torch.rand(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    valid = torch.tensor([True, True, True, True, False])
    rough, fine = (balanced(cosines, valid, 0.2, iterations, Exchange()) for iterations in (1, 100))
    for found in (rough, fine):
        torch.testing.assert_close(found.sum(1), valid.double())
    assert (fine.sum(0) - 0.8).abs().max() < 1e-6 < (rough.sum(0) - 0.8).abs().max()


def test_siam_predicts_the_teacher_only_where_it_is_asked_to() -> None:
    entry = BY_NAME["siam"]
    tensors = tensors_of(entry, 4, 1, 6, holes=False)
    total = loss_by_name("siam", tensors, entry.settings[1]).total
    taught = {name: value for name, value in tensors.items() if name.startswith("teacher_")}
    moved = {name: torch.roll(value, 1, 0) for name, value in taught.items()}
    assert loss_by_name("siam", {**tensors, **moved}, entry.settings[1]).total != total
    online = entry.settings[0]
    assert loss_by_name("siam", {**tensors, **moved}, online).total == loss_by_name("siam", tensors, online).total


def test_siam_asks_for_a_teacher_only_where_it_predicts_one() -> None:
    def opened(**keys: Any) -> Any:
        return LossConfig.checked({"terms": {"siam": {"objective": {"name": "siam", **keys}}}}, at="loss").opened()

    assert opened().needs == ()
    found = opened(target="teacher", decay=0.9)
    assert found.needs == ("teacher",) and found.teacher_decay == 0.9


def test_siam_without_its_teacher_says_so() -> None:
    entry = BY_NAME["siam"]
    tensors = tensors_of(entry, 4, 2, 6)
    objective = _opened("siam", entry.settings[1], "paper")
    objective.begin(SETUP)
    objective.when = When(0, 1, 1)
    features = _features(objective, tensors)
    own = objective.heads(SETUP).double()(features.image_BD, features.text_BKD)  # type: ignore[union-attr]  # has heads
    with pytest.raises(RecipeError, match="must have a teacher"):
        objective(features._replace(own=own, teacher=None), _rows(tensors), Exchange())


@pytest.mark.parametrize("width", [None, 3])
def test_an_old_model_must_have_the_width_that_is_projected_to(width: int | None) -> None:
    tensors = tensors_of(BY_NAME["backward_compatible"], 4, 2, 6)
    plain = {name: value for name, value in tensors.items() if not name.startswith("projection")}
    with pytest.raises(RecipeError, match=f"width {width or 6}; the old model: 4"):
        loss_by_name("backward_compatible", plain, {"width": width})
