"""`mixup`: what is drawn for a row, when soft CLIP begins, and the released targets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from entries import tensors_of
from every_entry import BY_NAME
from torch import Tensor

from training.losses.mixing import Mix, draw_mix
from training.objectives import loss_by_name

SEED = [0, 0, 0]


def drawn(rows: int, *, beta: float = 0.15, chance: float = 0.5, seed: list[int] = SEED) -> Mix:
    ids = torch.arange(rows)
    return draw_mix(ids, ids, torch.ones(rows, dtype=torch.bool), beta, chance, seed)


def test_half_of_the_rows_are_mixed_by_a_beta_distribution() -> None:
    mix = drawn(20_000)
    assert sorted(mix.partner.tolist()) == list(range(20_000))
    share = mix.share[mix.share < 1]
    assert len(share) / 20_000 == pytest.approx(0.5, abs=0.02)
    # Of Beta(a, a): mean 1/2, variance 1 / (4 (2a + 1)).
    assert share.mean() == pytest.approx(0.5, abs=0.02)
    assert share.var() == pytest.approx(1 / (4 * 1.3), abs=0.01)
    assert (drawn(100, chance=0).share == 1).all() and (drawn(100, chance=1).share < 1).all()


def test_a_row_is_drawn_for_by_its_id_wherever_it_lies() -> None:
    ids = torch.tensor([40, 10, 30, 20])
    valid = torch.tensor([True, True, False, True])
    mix = draw_mix(ids, ids, valid, 1.0, 1.0, SEED)
    order = torch.tensor([3, 0, 2, 1])
    moved = draw_mix(ids[order], ids, valid[order], 1.0, 1.0, SEED)
    assert torch.equal(moved.share, mix.share[order])
    assert torch.equal(ids[order][moved.partner], ids[mix.partner][order])
    # What is not valid keeps to itself.
    assert mix.partner[2] == 2 and mix.share[2] == 1
    assert any(not torch.equal(drawn(9).partner, drawn(9, seed=seed).partner) for seed in ([0, 1, 0], [0, 0, 1]))


def test_rows_of_one_family_are_not_mixed() -> None:
    ids = torch.arange(6)
    mix = draw_mix(ids, torch.zeros(6, dtype=torch.int64), torch.ones(6, dtype=torch.bool), 1.0, 1.0, SEED)
    assert torch.equal(mix.partner, ids)


@pytest.mark.parametrize(("step", "soft"), [(0, False), (32, False), (33, True), (99, True)])
def test_soft_clip_begins_after_a_third_of_the_run(step: int, soft: bool) -> None:
    tensors = tensors_of(BY_NAME["mixup"], 6, 1, 6) | {"step": step, "steps": 100}
    phases = [loss_by_name("mixup", tensors, {"until": until}).total for until in (1, 0)]
    assert loss_by_name("mixup", tensors).total == phases[soft]
    assert phases[0] != phases[1]


def test_an_image_alone_with_its_text_costs_nothing_unless_released() -> None:
    # One row is its own partner: its target is 1, released 1 − λ, and its softmax 1; released has nothing to weigh.
    tensors = tensors_of(BY_NAME["mixup"], 1, 1, 6, holes=False)
    for form in ("paper", "released"):
        assert loss_by_name("mixup", tensors, {"chance": 1}, form).total.item() == pytest.approx(0, abs=1e-12)


def test_a_fixed_point_that_is_not_mixed_has_no_target_in_the_released_form() -> None:
    # Two rows whose partners are themselves, none mixed: the paper's loss is twice CLIP's, the released one is 0.
    tensors = tensors_of(BY_NAME["mixup"], 2, 1, 6, holes=False) | {"logit_scale": torch.tensor(10.0).double()}
    found: dict[str, Tensor] = {}
    settings: dict[str, Any] = {"chance": 0}
    for step in range(20):
        tensors |= {"step": step, "steps": 100}
        forms = {form: loss_by_name("mixup", tensors, settings, form).total for form in ("paper", "released")}
        torch.testing.assert_close(forms["paper"], 2 * loss_by_name("clip", tensors).total)
        found |= {"none": forms["released"]} if forms["released"] == 0 else {"some": forms["released"]}
    assert set(found) == {"none", "some"}
