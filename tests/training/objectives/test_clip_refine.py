"""`rafa` and `hycd`: the random vectors of rows, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from entries import tensors_of
from every_entry import BY_NAME

from pairmill.errors import RecipeError
from training.gather import Exchange
from training.losses.drawn import normals
from training.objectives import loss_by_name
from training.objectives.by_name import _features, _opened, _rows
from training.objectives.declaration import Setup, When


def test_a_row_has_its_own_random_vector_in_each_step_wherever_it_lies() -> None:
    ids = torch.tensor([5, 7, 2**62, -1])
    found = normals(3, 10, ids, 8)
    assert torch.equal(normals(3, 10, ids.flip(0)[:2], 8), found.flip(0)[:2])
    for seed, step in ((4, 10), (3, 11)):
        assert not torch.isclose(normals(seed, step, ids, 8), found).any()
    assert len({tuple(row.tolist()) for row in found}) == len(ids)


def test_random_vectors_are_standard_normal() -> None:
    found = normals(0, 0, torch.arange(2000), 50)
    assert found.isfinite().all()
    assert found.mean().abs() < 0.01 and found.var() == pytest.approx(1, abs=0.02)
    assert (found.abs() < 1).double().mean() == pytest.approx(0.6827, abs=0.005)
    # Neither the numbers of a row nor those of rows with neighbouring ids go together.
    for one, other in ((found[:, :-1], found[:, 1:]), (found[:-1], found[1:])):
        assert (one * other).mean().abs() < 0.01


def test_the_loss_is_least_where_all_texts_and_the_image_are_the_random_vector() -> None:
    tensors = tensors_of(BY_NAME["rafa"], 3, 2, 6, holes=False)
    random = normals(0, tensors["step"], tensors["sample_id"], 6)
    tensors |= {"raw_image": random, "raw_text": random[:, None].expand(3, 2, 6)}
    assert loss_by_name("rafa", tensors).total == 0


def test_a_student_that_is_its_teacher_costs_nothing_without_the_truth() -> None:
    tensors = tensors_of(BY_NAME["hycd"], 4, 2, 6)
    tensors |= {f"teacher_raw_{name}": tensors[f"raw_{name}"].detach() for name in ("image", "text")}
    assert loss_by_name("hycd", tensors, {"alpha": 0}).total.item() == pytest.approx(0, abs=1e-12)
    assert loss_by_name("hycd", tensors).total > 0.01


@pytest.mark.parametrize("missing", ["raw_text", "teacher_raw_image"])
def test_what_hycd_compares_must_be_given(missing: str) -> None:
    tensors: dict[str, Any] = tensors_of(BY_NAME["hycd"], 4, 2, 6)
    del tensors[missing]
    tensors.pop("teacher_image")
    with pytest.raises(RecipeError, match=f"without {missing}"):
        loss_by_name("hycd", tensors)


def test_hycd_without_a_teacher_says_so() -> None:
    tensors = tensors_of(BY_NAME["hycd"], 4, 2, 6)
    objective = _opened("hycd", {}, "paper")
    objective.begin(Setup(6, 2, 4, 0, 1, (8, 8), 0, torch.device("cpu")))
    objective.when = When(0, 1, 1)
    with pytest.raises(RecipeError, match="frozen teacher"):
        objective(_features(objective, tensors)._replace(frozen=None), _rows(tensors), Exchange())
