"""Volumes of an image with the texts of a row, and products of an image with two texts."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from entries import basic, gradients
from torch import Tensor

from pairmill.errors import RecipeError
from training.losses.volume import squares_by_schur, squares_of_matrices
from training.objectives import loss_by_name


def units(*shape: int, seed: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=random, dtype=torch.float64), dim=-1)


@pytest.mark.parametrize("slots", [1, 2, 4])
def test_no_matrix_a_pair_is_needed_for_a_volume(slots: int) -> None:
    image, text, mask = units(5, 6, seed=0), units(7, slots, 6, seed=1), torch.ones(7, slots)
    torch.testing.assert_close(squares_by_schur(image, text, mask, epsilon=0.0), squares_of_matrices(image, text, mask))


def test_a_missing_text_leaves_a_volume_as_it_is() -> None:
    image, text = units(5, 6, seed=0), units(7, 2, 6, seed=1)
    padded = torch.cat([text, torch.zeros(7, 2, 6)], 1)
    mask = torch.tensor([1.0, 1.0, 0.0, 0.0]).expand(7, 4)
    for squared in (squares_of_matrices, lambda *of: squares_by_schur(*of, epsilon=1e-4)):
        torch.testing.assert_close(squared(image, padded, mask), squared(image, text, mask[:, :2]))


def test_the_volume_with_one_text_is_the_sine_of_the_angle() -> None:
    image = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    text = torch.tensor([[[0.8, 0.6]], [[0.6, -0.8]]], dtype=torch.float64)
    # Sines: [[.6, .8], [.8, .6]].
    tensors = {"image": image, "text": text, "logit_scale": torch.tensor(3.0, dtype=torch.float64)}
    found = loss_by_name("gram", tensors, {"label_smoothing": 0.0, "epsilon": 1e-12}).total.item()
    assert found == pytest.approx(math.log1p(math.exp(-3 * 0.2)))


def test_equal_texts_of_a_row_give_finite_gradients() -> None:
    for dtype in (torch.float32, torch.float64):
        image = units(4, 8, seed=0).to(dtype).requires_grad_()
        text = image.detach()[:, None].repeat(1, 3, 1).requires_grad_()
        for form in ("paper", "released"):
            total = loss_by_name("gram", {"image": image, "text": text}, form=form).total
            assert all(torch.isfinite(g).all() for g in torch.autograd.grad(total, [image, text]))


def test_released_images_learn_from_one_direction_only() -> None:
    tensors = basic(4, 2, 6, holes=False)
    settings = {"label_smoothing": 0.0}
    released = gradients(loss_by_name("gram", tensors, settings, form="released").total, tensors)
    paper = gradients(loss_by_name("gram", tensors, settings).total, tensors)
    cosine = F.cosine_similarity(released["image"].flatten(), paper["image"].flatten(), 0)
    assert cosine < 0.99


def test_two_texts_of_a_row_are_needed() -> None:
    tensors = basic(4, 1, 6, holes=False)
    with pytest.raises(RecipeError, match="two different text slots"):
        loss_by_name("multilinear", tensors)
    with pytest.raises(RecipeError, match="two different text slots"):
        loss_by_name("multilinear", basic(4, 2, 6), {"slots": [1, 1]})


def by_hand(**settings: Any) -> float:
    image = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    text = torch.stack([image, torch.tensor([[0.6, 0.8], [0.8, 0.6]], dtype=torch.float64)], 1)
    tensors = {"image": image, "text": text, "logit_scale": torch.tensor(2.0, dtype=torch.float64)}
    tensors |= settings.pop("tensors", {})
    return loss_by_name("multilinear", tensors, settings).total.item()


def test_products_of_two_rows_by_hand() -> None:
    # Of x_0 = a_0 = (1, 0), x_1 = a_1 = (0, 1), b = (.6, .8), (.8, .6): 1·1·.6 of each own triple.
    own = math.exp(2 * 0.6)
    # Anchor x_0 against (a, b): (a_0, b_1) .8, (a_1, b_0) and (a_1, b_1) 0; so for a_0, and for x_1, a_1.
    of_x = math.log((own + math.exp(2 * 0.8) + 2) / own)
    # Anchor b_0 against (x, a): (x_0, a_1) and (x_1, a_0) 0, (x_1, a_1) .8.
    of_b = math.log((own + math.exp(2 * 0.8) + 2) / own)
    assert by_hand(negatives="n_squared") == pytest.approx((2 * of_x + of_b) / 3)


def test_only_negatives_of_which_one_part_is_another_groups_count() -> None:
    # Both rows of one group: no negative at all is left.
    assert by_hand(negatives="n_squared", tensors={"group_id": torch.tensor([3, 3])}) == pytest.approx(0)
    assert by_hand(tensors={"group_id": torch.tensor([3, 3])}) == pytest.approx(0)


def test_permutations_change_from_step_to_step() -> None:
    tensors = basic(8, 2, 6, holes=False)
    each = [loss_by_name("multilinear", {**tensors, "step": step, "steps": 9}).total.item() for step in (0, 0, 1)]
    assert each[0] == each[1] != each[2]
