"""What `loss_by_name` can do without: tools outside a training run have the tensors of the equation and no others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from entries import tensors_of
from every_entry import BY_NAME

from pairmill.errors import RecipeError
from training.objectives import loss_by_name

#: What every tool has, and an objective's own state and parameters.
BASIC = ("image", "text", "text_mask", "group_id", "sample_id", "logit_scale")
#: By objective, the tensors beside BASIC that are in its equation.
USED = {
    "backward_compatible": ["teacher_text"],
    "grouping": ["image_tokens"],
    "hycd": ["raw_image", "raw_text", "teacher_raw_image", "teacher_raw_text"],
    "image_grounded": ["neg_text"],
    "instance": ["image_tokens"],
    "intra_modal": ["teacher_text"],
    "local_mi": ["teacher_image_tokens", "teacher_text_tokens"],
    "masked_image": ["masked_image_tokens", "image_token_hidden", "text_tokens", "image_patches"],
    "pixpro": ["view_tokens", "view_boxes", "teacher_view_tokens"],
    "text_grounded": ["neg_text", "teacher_text"],
}


def tensors_for(name: str) -> dict[str, Any]:
    """Those of its entry, without masks and queues, which any objective does without."""
    found = tensors_of(BY_NAME[name], 5, 2, 6)
    left_out = ("neg_mask", "text_token_mask", "queue_image", "queue_text", "queue_id", "queue_group")
    return {one: value for one, value in found.items() if one not in left_out}


def total(name: str, tensors: dict[str, Any]) -> torch.Tensor:
    return loss_by_name(name, tensors, BY_NAME[name].settings[0]).total


@pytest.mark.parametrize("name", USED)
def test_only_what_the_equation_has_must_be_given(name: str) -> None:
    whole, used = tensors_for(name), USED[name]
    others = {f"{of}{one}" for of in ("", "teacher_") for one in ("image", "text", "image_views", "text_views")}
    others |= {f"{of}_tokens" for of in ("image", "text", "masked_text", "teacher_image", "teacher_text")}
    others |= {"text_token_hidden", "teacher_neg_text"}
    few = {one: value for one, value in whole.items() if one in (*BASIC, *used) or one not in others}
    if name == "intra_modal":
        few["teacher_image_views"] = whole["teacher_image_views"]
    else:
        assert len(few) < len(whole) or name == "image_grounded"
    assert total(name, few) == total(name, whole)
    for one in used:
        with pytest.raises(RecipeError, match=f"without {one}"):
            total(name, {other: value for other, value in few.items() if other != one})


def test_a_teacher_may_name_its_embeddings_plainly() -> None:
    tensors = tensors_for("hycd")
    few = {one: value for one, value in tensors.items() if not one.startswith("teacher")}
    plain = {f"teacher_{one}": tensors[f"teacher_raw_{one}"] for one in ("image", "text")}
    assert total("hycd", {**few, **plain}) == total("hycd", tensors)

    tensors = tensors_for("intra_modal")
    few = {one: value for one, value in tensors.items() if "views" not in one}
    plain = {"teacher_image": tensors["teacher_image_views"][:, 0]}
    assert total("intra_modal", {**few, **plain}) == total("intra_modal", tensors)


@pytest.mark.parametrize("missing", ["neg_text", "teacher_neg_text"])
def test_what_a_teacher_has_no_embedding_of_is_not_distilled(missing: str) -> None:
    tensors = tensors_for("ema_distill")
    few = {one: value for one, value in tensors.items() if one != missing}
    without = {one: value for one, value in tensors.items() if "neg_text" not in one}
    found = loss_by_name("ema_distill", few).total
    assert found == loss_by_name("ema_distill", without, {"negatives": False}).total
    assert found < loss_by_name("ema_distill", tensors).total


def test_what_is_none_is_not_there_and_queues_may_be_of_any_length() -> None:
    tensors = tensors_for("intra_modal")
    nothing = {"logit_bias": None, "teacher_logit_scale": None, "neg_text": None, "queue_image": None}
    assert total("intra_modal", {**tensors, **nothing}) == total("intra_modal", tensors)
    queue = torch.nn.functional.normalize(torch.randn(3, 6, dtype=torch.float64), dim=1)
    longer = {**tensors, "queue_image": queue, "queue_text": queue.repeat(2, 1)}
    assert loss_by_name("intra_modal", longer).total > loss_by_name("intra_modal", tensors).total
    assert loss_by_name("clip", longer).total == loss_by_name("clip", tensors).total


def test_negatives_may_lie_one_after_the_other() -> None:
    tensors = tensors_for("text_grounded")
    flat = {**tensors, "neg_text": tensors["neg_text"].flatten(0, 1)}
    assert total("text_grounded", flat) == total("text_grounded", tensors)
    mask = torch.rand(tensors["neg_text"].shape[:2]) > 0.5
    assert total("text_grounded", {**flat, "neg_mask": mask.flatten()}) == total(
        "text_grounded", {**tensors, "neg_mask": mask}
    )


@pytest.mark.parametrize("name", ["grouping", "instance"])
def test_a_parameter_that_is_not_given_begins_as_exactly_as_the_loss_is_computed(name: str) -> None:
    tensors = tensors_for(name)
    begin = torch.tensor([1 / 0.07], dtype=torch.float64).log()
    without = {one: value for one, value in tensors.items() if one != "local_scale"}
    found = total(name, without)
    torch.testing.assert_close(found, total(name, {**tensors, "local_scale": begin}), rtol=1e-14, atol=0)
    assert torch.get_default_dtype() == torch.float32
