"""What `loss_by_name` takes beyond one tensor for each name, and what it leaves out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from entries import basic, tensors_of, units
from every_entry import BY_NAME
from naive_similarities import with_tokens
from torch import Tensor

from pairmill.errors import RecipeError
from training.objectives import loss_by_name

ROWS, SLOTS, WIDTH = 5, 2, 8


def batch(**more: Any) -> dict[str, Any]:
    return {**basic(ROWS, SLOTS, WIDTH), **more}


def total(name: str, tensors: dict[str, Any], **settings: Any) -> Tensor:
    return loss_by_name(name, tensors, settings).total


def test_none_is_a_tensor_left_out() -> None:
    left_out = ("text_mask", "group_id", "logit_bias", "noise_prob", "teacher_image")
    tensors = {name: value for name, value in batch().items() if name not in left_out}
    for name in ("clip", "siglip", "noise_adaptive", "sdm"):
        given = total(name, {**tensors, **dict.fromkeys(left_out)})
        torch.testing.assert_close(given, total(name, tensors), rtol=0, atol=0)
    with pytest.raises(RecipeError, match="teacher_image"):
        total("cwcl", {**tensors, "teacher_image": None})


def test_a_group_may_have_any_number_but_minus_one() -> None:
    for name in ("clip", "siglip", "sdm"):
        found = [
            total(name, batch(group_id=torch.tensor(ids, dtype=kind)))
            for ids, kind in (
                ([7, 7, -1, 8, 7], torch.int64),
                ([-5, -5, -1, -2, -5], torch.int32),
                ([-(2**63), -(2**63), -1, -(2**62), -(2**63)], torch.int64),
            )
        ]
        assert found[0] == found[1] == found[2] != total(name, batch(group_id=torch.full((ROWS,), -1)))


def test_a_scale_may_be_a_number() -> None:
    for name in ("clip", "gram", "distill"):
        tensors = tensors_of(BY_NAME[name], ROWS, SLOTS, WIDTH)
        scales = {one: tensors[one].item() for one in ("logit_scale", "teacher_logit_scale") if one in tensors}
        torch.testing.assert_close(total(name, {**tensors, **scales}), total(name, tensors), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "unread", "reader"),
    [("cwcl", "teacher_text", "distill"), ("words", "image_tokens", "levels"), ("levels", "text_tokens", "words")],
)
def test_what_an_objective_does_not_read_may_be_missing(name: str, unread: str, reader: str) -> None:
    tensors = tensors_of(BY_NAME[name], ROWS, SLOTS, WIDTH)
    whole = total(name, tensors)
    del tensors[unread]
    torch.testing.assert_close(total(name, tensors), whole, rtol=0, atol=0)
    with pytest.raises(RecipeError, match=unread):
        total(reader, {one: value for one, value in tensors.items() if one != "level_logits"})


def test_noise_of_a_row_is_that_of_all_its_texts_and_a_constant() -> None:
    noise = torch.linspace(0, 1, ROWS, dtype=torch.float64, requires_grad=True)
    found = total("noise_adaptive", batch(noise_prob=noise), table=64)
    each = total("noise_adaptive", batch(noise_prob=noise.detach()[:, None].expand(-1, SLOTS)), table=64)
    torch.testing.assert_close(found, each, rtol=0, atol=0)
    assert found != total("noise_adaptive", batch(), table=64)
    assert torch.autograd.grad(found, noise, allow_unused=True) == (None,)


def test_what_others_keep_is_ignored_and_what_nobody_knows_is_refused() -> None:
    random = torch.Generator().manual_seed(0)
    queues = {"queue_image": units(4, WIDTH, random=random), "queue_text": units(4, SLOTS, WIDTH, random=random)}
    torch.testing.assert_close(total("clip", batch(**queues)), total("clip", batch()), rtol=0, atol=0)
    with pytest.raises(RecipeError, match="queue_image"):
        total("clip", batch(queue_imgae=queues["queue_image"]))


@pytest.mark.parametrize(
    ("name", "settings", "weight"),
    [
        ("codebook", {"codes": 9, "width": 4}, "image.1.weight"),
        ("token_max_reduced", {"groups": 2, "tokens": 3}, "learner.maps.weight"),
    ],
)
def test_heads_are_as_wide_as_the_tokens_that_they_are_given(name: str, settings: dict[str, Any], weight: str) -> None:
    tensors = batch()
    tensors |= with_tokens(tensors, torch.Generator().manual_seed(0), WIDTH - 2)
    shape = (4, WIDTH - 2) if name == "codebook" else (3, WIDTH - 2, 1)
    tensors[weight] = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    found = loss_by_name(name, tensors, settings).total
    assert found.isfinite()
    assert torch.autograd.grad(found, tensors[weight])[0].any()
