"""Learnt heads of similarities: few tokens of many, levels of texts, codes; and the words of a text."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from torch import Tensor

from pairmill.errors import RecipeError
from training.data.texts import kind_code
from training.losses.codes import sparsemax
from training.objectives import loss_by_name
from training.objectives.codebook import Codebook, CodebookConfig
from training.objectives.declaration import Setup, When
from training.objectives.levels import Levels, LevelsConfig
from training.objectives.token_max_reduced import TokenMaxReduced, TokenMaxReducedConfig

SETUP = Setup(8, 1, 4, 0, 1, (4, 4), 0, torch.device("cpu"))


def units(*shape: int, seed: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=random, dtype=torch.float64), dim=-1)


def tensors_of(rows: int = 4, slots: int = 1, tokens: int = 3, width: int = 8) -> dict[str, Any]:
    return {
        "image": units(rows, width, seed=0),
        "text": units(rows, slots, width, seed=1),
        "image_tokens": units(rows, 5, width, seed=2),
        "text_tokens": units(rows, slots, tokens, width, seed=3),
    }


def test_sparsemax_by_hand() -> None:
    values = torch.tensor([[0.5, 0.3, -2.0], [5.0, 0.0, 0.0], [0.1, 0.1, 0.1]], dtype=torch.float64)
    expected = torch.tensor([[0.6, 0.4, 0.0], [1.0, 0.0, 0.0], [1 / 3] * 3], dtype=torch.float64)
    torch.testing.assert_close(sparsemax(values), expected)


def test_the_slope_of_sparsemax_is_what_differs_from_the_mean_of_the_support() -> None:
    values = torch.tensor([0.5, 0.3, -2.0], dtype=torch.float64, requires_grad=True)
    slope = torch.autograd.grad(sparsemax(values), values, torch.tensor([3.0, 1.0, 7.0], dtype=torch.float64))[0]
    torch.testing.assert_close(slope, torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64))


def test_the_temperature_of_codes_falls_to_its_lowest() -> None:
    objective = Codebook(CodebookConfig(name="codebook"))
    found = []
    for step in (0, 2700, 5400, 10**6):
        objective.when = When(step, 10**6 + 1, 100)
        found.append(objective.temperature)
    assert found == pytest.approx([1000, 300, 90, 0.01])


def test_codes_are_the_parameters_that_keep_their_size() -> None:
    head = Codebook(CodebookConfig(name="codebook", codes=6, width=4)).heads(SETUP)
    assert sorted(Codebook.parameters) == sorted(name for name, _ in head.named_parameters())
    assert Codebook.undecayed == ("codebook",)
    assert head.get_parameter("codebook").shape == (6, 4)


def test_groups_must_divide_the_width_of_a_token() -> None:
    with pytest.raises(RecipeError, match="groups must divide"):
        TokenMaxReduced(TokenMaxReducedConfig(name="token_max_reduced", groups=3)).heads(SETUP)
    head = TokenMaxReduced(TokenMaxReducedConfig(name="token_max_reduced", own_scale=True)).heads(SETUP)
    assert sorted(TokenMaxReduced.parameters) == sorted(name for name, _ in head.named_parameters())


def test_levels_begin_with_their_weights() -> None:
    head = Levels(LevelsConfig(name="levels")).heads(SETUP)
    weights = head(None, None).shared["levels"]
    torch.testing.assert_close(weights, torch.tensor([0.5, 0.2, 0.2, 0.1]))


def test_a_level_weighs_the_same_however_many_texts_it_has() -> None:
    few, many = tensors_of(slots=2), tensors_of(slots=3)
    many["text"] = torch.cat([few["text"], few["text"][:, 1:]], 1)
    roles = torch.tensor([kind_code("long"), kind_code("alt"), kind_code("alt")]).expand(4, 3)
    found = [loss_by_name("levels", {**of, "text_role": roles[:, : of["text"].shape[1]]}).total for of in (few, many)]
    torch.testing.assert_close(*found)


def test_a_row_with_one_level_is_compared_by_that_level_alone() -> None:
    tensors = tensors_of()
    found = [
        loss_by_name("levels", {**tensors, "text_role": torch.full((4, 1), kind_code(kind))}).total
        for kind in ("long", "translated", "alt")
    ]
    assert torch.allclose(found[0], found[1]) and torch.allclose(found[0], found[2])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kinds": [["long"], ["alt"]]}, "a number for each level"),
        ({"kinds": [["long"], ["sentence"], [], []]}, "each kind of text once"),
        ({"kinds": [["long"], ["long"], [], []]}, "each kind of text once"),
    ],
)
def test_levels_that_cannot_be_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        loss_by_name("levels", tensors_of(), settings)


@pytest.mark.parametrize("name", ["words", "levels"])
def test_tokens_of_another_width_are_refused(name: str) -> None:
    tensors = tensors_of() | {"image_tokens": units(4, 5, 6, seed=2), "text_tokens": units(4, 1, 3, 6, seed=3)}
    with pytest.raises(RecipeError, match="as wide as the embeddings"):
        loss_by_name(name, tensors)


def test_one_word_a_text_of_two_rows_by_hand() -> None:
    axes = torch.eye(2, dtype=torch.float64)
    word = torch.tensor([[0.8, 0.6], [0.0, 1.0]], dtype=torch.float64)
    tensors = {
        "image": axes,
        "text": axes[:, None],
        "image_tokens": axes[:, None],
        "text_tokens": word[:, None, None],
        "logit_scale": torch.tensor(2.0, dtype=torch.float64),
    }
    # Images against words: [[.8, 0], [.6, 1]].  Image 0: own .8, other text 0, other image .6; image 1: 1, .6, 0.
    each = [
        math.log(math.exp(1.6) + 1 + math.exp(1.2)) - 1.6,
        math.log(math.exp(2) + math.exp(1.2) + 1) - 2,
    ]
    assert loss_by_name("words", tensors).total.item() == pytest.approx(sum(each) / 2)


def test_a_word_said_twice_is_no_other_text() -> None:
    # Every text says its words twice: all similarities rise by ln 2, and no image learns otherwise.
    tensors = tensors_of(slots=2)
    twice = {**tensors, "text_tokens": torch.cat([tensors["text_tokens"]] * 2, 2)}
    torch.testing.assert_close(loss_by_name("words", twice).total, loss_by_name("words", tensors).total)
