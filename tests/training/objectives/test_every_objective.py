"""What must hold of every objective of the registry, in one process (the ranks are in `test_objectives_over_ranks`)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from entries import BY_ROW, BY_SLOT, Entry, gradients, tensors_of
from every_entry import BY_NAME, ENTRIES
from torch import Tensor

from pairmill.errors import RecipeError
from training.gather import Exchange
from training.objectives import loss_by_name
from training.objectives.by_name import computed
from training.objectives.config import OBJECTIVES

ROWS, SLOTS, WIDTH = 7, 3, 6
#: (entry, settings, form) of everything that is compared with a reference.
CASES = [(entry, settings, form) for entry in ENTRIES for settings in entry.settings for form in entry.forms]


def name_of(value: object) -> str | None:
    """How a test's parameters are called."""
    if isinstance(value, Entry):
        return value.name
    return ",".join(f"{k}={v}" for k, v in value.items()) or "plain" if isinstance(value, dict) else None


def total(entry: Entry, tensors: dict[str, Any], settings: Any = None, form: str = "paper") -> Tensor:
    return loss_by_name(entry.name, tensors, entry.settings[0] if settings is None else settings, form).total


every = pytest.mark.parametrize("entry", ENTRIES, ids=name_of)


def test_every_objective_has_an_entry() -> None:
    assert sorted(BY_NAME) == sorted(OBJECTIVES.names)
    assert len(ENTRIES) == len(BY_NAME)


@every
def test_the_released_form_is_declared(entry: Entry) -> None:
    assert OBJECTIVES.get(entry.name).forms == entry.forms


@pytest.mark.parametrize(("entry", "settings", "form"), CASES, ids=name_of)
@pytest.mark.parametrize("groups", [False, True], ids=["alone", "groups"])
@pytest.mark.parametrize("tile", [(1024, 2048), (2, 4)], ids=["one_tile", "tiles"])
def test_value_and_gradients_are_those_of_the_equation(
    entry: Entry, settings: Any, form: str, groups: bool, tile: tuple[int, int]
) -> None:
    for seed in range(2):
        tensors = tensors_of(entry, ROWS, SLOTS, WIDTH, seed=seed, groups=groups)
        found = computed(entry.name, tensors, settings, form, Exchange(), tile)[0].total
        expected = entry.reference(tensors, settings, form)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
        mine, theirs = gradients(found, tensors), gradients(expected, tensors)
        for name, wanted in theirs.items():
            torch.testing.assert_close(mine[name], wanted, rtol=1e-7, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


@every
def test_the_released_form_is_another_one(entry: Entry) -> None:
    if len(entry.forms) == 1:
        tensors = tensors_of(entry, ROWS, SLOTS, WIDTH)
        assert total(entry, tensors, form="released") == total(entry, tensors)
        return
    differs = []
    for settings in entry.settings:
        tensors = tensors_of(entry, ROWS, SLOTS, WIDTH)
        pair = [(total(entry, tensors, settings, form), total(entry, tensors, settings)) for form in entry.forms]
        differs.append(any(not torch.isclose(*both) or _differ(tensors, *both) for both in pair))
    assert any(differs)


def _differ(tensors: dict[str, Any], one: Tensor, other: Tensor) -> bool:
    first, second = gradients(one, tensors), gradients(other, tensors)
    return any(not torch.allclose(first[name], second[name]) for name in first)


@every
def test_of_one_text_it_is_clip_where_it_says_so(entry: Entry) -> None:
    if entry.clip_where is None:
        return
    tensors = tensors_of(entry, ROWS, 1, WIDTH)
    found = total(entry, tensors, entry.clip_where)
    torch.testing.assert_close(found, total(BY_NAME["clip"], tensors), rtol=1e-9, atol=1e-10)


@every
def test_what_a_missing_text_holds_does_not_matter(entry: Entry) -> None:
    tensors = tensors_of(entry, ROWS, SLOTS, WIDTH, seed=3)
    junk = dict(tensors)
    missing = ~tensors["text_mask"]
    for name in BY_SLOT:
        if name in tensors and tensors[name].is_floating_point():
            there = missing.view(*missing.shape, *([1] * (tensors[name].ndim - 2)))
            junk[name] = torch.where(there, torch.nan, tensors[name].detach()).requires_grad_(
                tensors[name].requires_grad
            )
    found, spoilt = total(entry, tensors), total(entry, junk)
    torch.testing.assert_close(found, spoilt, rtol=0, atol=0)
    mine, theirs = gradients(found, tensors), gradients(spoilt, junk)
    for name, gradient in theirs.items():
        there = missing if name in BY_SLOT else None
        if there is not None:
            assert not gradient[there].any(), name
        torch.testing.assert_close(mine[name], gradient, rtol=0, atol=0, msg=name)


@every
def test_order_of_rows_does_not_matter(entry: Entry) -> None:
    tensors = tensors_of(entry, ROWS, SLOTS, WIDTH, seed=4, groups=True)
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(1))
    moved = {name: value[order] if name in BY_ROW else value for name, value in tensors.items()}
    torch.testing.assert_close(total(entry, moved), total(entry, tensors), rtol=1e-9, atol=1e-10)


@every
def test_order_of_slots_matters_only_where_it_says_so(entry: Entry) -> None:
    tensors = tensors_of(entry, ROWS, SLOTS, WIDTH, seed=5)
    order = torch.tensor([2, 0, 1])
    moved = {name: value[:, order] if name in BY_SLOT else value for name, value in tensors.items()}
    same = torch.isclose(total(entry, moved), total(entry, tensors), rtol=1e-9, atol=1e-10)
    assert bool(same) == entry.slots_alike


@every
def test_chance_is_known(entry: Entry) -> None:
    if entry.at_chance is None:
        return
    tensors = tensors_of(entry, ROWS, SLOTS, WIDTH, holes=False)
    flat = {**tensors, "logit_scale": torch.zeros((), dtype=torch.float64), "logit_bias": torch.zeros(()).double()}
    assert total(entry, flat).item() == pytest.approx(entry.at_chance(ROWS, SLOTS))


@every
def test_alignment_is_better_than_chance(entry: Entry) -> None:
    if not entry.aligns:
        return
    tensors = tensors_of(entry, ROWS, SLOTS, 16, holes=False)
    image = torch.eye(ROWS, 16, dtype=torch.float64)
    aligned = {**tensors, "image": image, "text": image[:, None].expand(ROWS, SLOTS, 16)}
    if "raw_image" in tensors:
        aligned |= {"raw_image": aligned["image"], "raw_text": aligned["text"]}
    assert total(entry, aligned) < total(entry, tensors)


@every
def test_rows_of_one_group_are_not_pushed_apart(entry: Entry) -> None:
    if not (entry.spares_groups and entry.mixes_rows):
        return
    # Image 0 is at a right angle to both texts; towards the other row's text the loss must not rise.
    tensors = tensors_of(entry, 2, 1, WIDTH, holes=False)
    axes = torch.eye(WIDTH, dtype=torch.float64)
    tensors |= {
        "image": torch.stack([axes[2], axes[3]]).requires_grad_(),
        "text": torch.stack([axes[0], axes[1]])[:, None].clone().requires_grad_(),
        "group_id": torch.tensor([5, 5]),
    }
    assert gradients(total(entry, tensors), tensors)["image"][0, 1] <= 1e-12


@every
def test_bfloat16_features_are_close(entry: Entry) -> None:
    exact = {
        name: value.detach().float() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in tensors_of(entry, 32, SLOTS, 16).items()
    }
    low = {
        name: value.bfloat16().float() if name in BY_ROW and value.is_floating_point() else value
        for name, value in exact.items()
    }
    assert total(entry, low).item() == pytest.approx(total(entry, exact).item(), rel=1e-2, abs=1e-3)


@every
def test_a_batch_without_a_text_costs_nothing_and_moves_nothing(entry: Entry) -> None:
    tensors = tensors_of(entry, ROWS, SLOTS, WIDTH)
    tensors["text_mask"] = torch.zeros_like(tensors["text_mask"])
    found = total(entry, tensors)
    assert found == 0
    assert not any(gradient.any() for gradient in gradients(found, tensors).values())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "clop"}, "perhaps you mean: clip"),
        ({"settings": {"bias": 1}}, r"loss\.objective\.bias is not a key"),
        ({"form": "official"}, "paper or released"),
        ({"without": "text"}, "without text"),
        ({"add": "txt_mask"}, "perhaps you mean: text_mask"),
        ({"flat": "text"}, r"text\[:, None\]"),
    ],
)
def test_what_cannot_be_computed_is_refused(change: dict[str, Any], said: str) -> None:
    tensors = tensors_of(BY_NAME["clip"], ROWS, SLOTS, WIDTH)
    tensors = {name: value for name, value in tensors.items() if name != change.get("without")}
    if "add" in change:
        tensors[change["add"]] = torch.ones(1)
    if "flat" in change:
        tensors["text"] = tensors["text"][:, 0]
    with pytest.raises(RecipeError, match=said):
        loss_by_name(change.get("name", "clip"), tensors, change.get("settings"), change.get("form", "paper"))
