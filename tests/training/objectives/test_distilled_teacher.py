"""What `distill` has its optimum at."""

from __future__ import annotations

import torch
from entries import gradients, tensors_of
from every_entry import BY_NAME

from training.objectives import loss_by_name


def test_nothing_is_left_to_learn_of_a_teacher_that_the_model_equals() -> None:
    tensors = tensors_of(BY_NAME["distill"], 6, 2, 5, groups=True)
    same = tensors | {
        name: tensors[f"teacher_{name}"].clone().requires_grad_() for name in ("image", "text", "logit_scale")
    }
    found = loss_by_name("distill", same).total
    torch.testing.assert_close(found, torch.zeros_like(found), rtol=0, atol=1e-12)
    for gradient in gradients(found, same).values():
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-12)
    assert loss_by_name("distill", tensors).total > 0.1
    assert loss_by_name("distill", same, {"hard": 1.0}).total > 0.1
