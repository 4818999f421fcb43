"""What the entries of `naive_views` do beside their equations: queues, grids of patches, what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from entries import basic, tensors_of
from every_entry import BY_NAME
from gloo_ranks import run_on_ranks

from pairmill.errors import RecipeError
from training.gather import Exchange, open_exchange
from training.losses.patch_grouping import LocalScale
from training.losses.propagation import at_one_place
from training.losses.token_grids import pooled_grid
from training.objectives import loss_by_name
from training.objectives.by_name import computed
from training.objectives.config import LossConfig
from training.objectives.declaration import Objective, Setup
from training.objectives.intra_modal import IntraModal

ROWS, SLOTS, WIDTH = 7, 3, 6
IMC = {"queue_size": 5, "other_view": False}


def taught(rows: int = 3, *, seed: int = 0, holes: bool = False) -> dict[str, Any]:
    """A batch with a teacher that gives what the model does."""
    tensors = basic(rows, 2, WIDTH, seed=seed, holes=holes)
    return {**tensors, "teacher_image": tensors["image"].detach(), "teacher_text": tensors["text"].detach()}


def stepped(tensors: dict[str, Any], before: Objective | None = None) -> Objective:
    state = {} if before is None else before.state
    return computed("intra_modal", {**tensors, **state}, IMC, "paper", Exchange())[1]


def test_a_queue_keeps_the_latest_rows_that_had_a_text() -> None:
    first, second = taught(), taught(4, seed=1, holes=True)
    after = stepped(second, stepped(first))
    here = second["text_mask"].any(1)
    count = int(here.sum())
    assert int(after.state["queued"]) == 3 + count and count == 3
    ids = torch.cat([first["sample_id"], second["sample_id"][here]])
    # Five places: the sixth row lies where the first one was.
    assert after.state["queue_id"].tolist() == [ids[5], *ids[1:5]]
    image = torch.cat([first["image"], second["image"][here]]).float()
    torch.testing.assert_close(after.state["queue_image"].float(), image[[5, 1, 2, 3, 4]])


def test_more_rows_than_a_queue_holds_leave_the_last_ones() -> None:
    tensors = taught(8)
    after = stepped(tensors)
    assert sorted(after.state["queue_id"].tolist()) == tensors["sample_id"][3:].tolist()


def test_a_row_is_no_negative_of_its_earlier_self() -> None:
    tensors = taught()
    alone = loss_by_name("intra_modal", tensors, IMC).total
    queue = torch.roll(tensors["image"].detach(), 1, 0)
    earlier = {**tensors, "queue_image": queue, "queue_text": queue}
    ids = {"queue_group": torch.full((3,), -1), "queued": torch.tensor(3)}
    own = loss_by_name("intra_modal", {**earlier, **ids, "queue_id": tensors["sample_id"][:1].expand(3)}, IMC)
    others = loss_by_name("intra_modal", {**earlier, **ids, "queue_id": torch.tensor([900, 901, 902])}, IMC)
    assert alone < own.total < others.total
    assert loss_by_name("intra_modal", earlier, IMC).total == others.total, "a queue without ids"


def test_an_empty_queue_has_no_negatives() -> None:
    tensors = taught()
    without = loss_by_name("intra_modal", tensors, {**IMC, "queue_size": 0}).total
    assert loss_by_name("intra_modal", tensors, IMC).total == without > 0


def test_a_queue_is_resumed_as_it_was() -> None:
    after = stepped(taught())
    # As a run has it: float32.
    after.state = {n: v.float() if v.is_floating_point() else v for n, v in after.state.items()}
    again = LossConfig.checked({"objective": {"name": "intra_modal", **IMC}}, at="loss").opened()
    again.begin(Setup(WIDTH, 2, 3, 0, 1, (4, 4), 0, torch.device("cpu")))
    again.load_state(after.state)
    again.check_state()
    assert all(torch.equal(again.state[name], value) for name, value in after.state.items())


def queue_on_rank(rank: int) -> dict[str, torch.Tensor]:
    whole = taught(6)
    mine = {n: v[3 * rank : 3 * rank + 3] if getattr(v, "ndim", 0) else v for n, v in whole.items()}
    return dict(computed("intra_modal", mine, IMC, "paper", open_exchange("local")(0))[1].state)


@pytest.mark.slow
def test_all_ranks_hold_the_same_queue() -> None:
    alone = stepped(taught(6)).state
    for state in run_on_ranks(2, queue_on_rank):
        assert all(torch.equal(state[name], value) for name, value in alone.items())


def test_further_views_are_asked_for_only_where_they_are_used() -> None:
    without = LossConfig.checked({"terms": {"intra_modal": {"objective": {"name": "intra_modal", **IMC}}}}).opened()
    assert without.needs == ("teacher",) and without.teacher_tensors == ()
    config = IntraModal.Config(name="intra_modal")
    assert IntraModal(config).needs == ("teacher", "views") and IntraModal(config).teacher_tensors == ("image_views",)


def test_what_a_teacher_must_give_too_is_asked_for() -> None:
    tensors = tensors_of(BY_NAME["local_mi"], ROWS, SLOTS, WIDTH)
    del tensors["teacher_text_tokens"]
    with pytest.raises(RecipeError, match="without teacher_text_tokens"):
        loss_by_name("local_mi", tensors)


@pytest.mark.parametrize(("side", "cells"), [(1, 1), (2, 2), (7, 3), (14, 4), (16, 4), (24, 6)])
def test_any_square_grid_is_pooled_in_whole_cells(side: int, cells: int) -> None:
    patches = torch.randn(2, side * side, 3, dtype=torch.float64, requires_grad=True)
    pooled, wide = pooled_grid(patches), math.isqrt(side)
    assert pooled.shape == (2, cells * cells, 3)
    grid = patches.view(2, side, side, 3)
    torch.testing.assert_close(pooled[:, 0], grid[:, :wide, :wide].mean((1, 2)))
    last = slice((cells - 1) * wide, cells * wide)
    torch.testing.assert_close(pooled[:, -1], grid[:, last, last].mean((1, 2)))
    (gradient,) = torch.autograd.grad(pooled.sum(), patches)
    # No patch is in two cells, and the remainder is in none.
    assert (gradient > 0).sum() == 2 * 3 * (cells * wide) ** 2
    assert torch.allclose(gradient[gradient > 0], torch.tensor(1 / wide**2, dtype=torch.float64))


def test_tokens_that_cannot_be_used_are_refused() -> None:
    tensors = tensors_of(BY_NAME["local_mi"], ROWS, SLOTS, WIDTH)
    with pytest.raises(RecipeError, match="square grid"):
        loss_by_name(
            "local_mi", {**tensors, **{name: tensors[name][:, 1:] for name in tensors if "image_tokens" in name}}
        )
    tensors = tensors_of(BY_NAME["grouping"], ROWS, SLOTS, WIDTH)
    with pytest.raises(RecipeError, match="as wide as the embeddings"):
        loss_by_name("grouping", {**tensors, **{name: tensors[name][..., 1:] for name in tensors if "_tokens" in name}})


def test_without_a_wrong_text_it_is_clip() -> None:
    tensors = tensors_of(BY_NAME["with_negatives"], ROWS, SLOTS, WIDTH)
    none = {**tensors, "neg_mask": torch.zeros_like(tensors["neg_mask"])}
    plain = {n: v for n, v in tensors.items() if "neg" not in n and "teacher" not in n}
    torch.testing.assert_close(loss_by_name("with_negatives", none).total, loss_by_name("clip", plain).total)
    assert loss_by_name("image_grounded", none).total == loss_by_name("text_grounded", none).total == 0


@pytest.mark.parametrize("name", ["with_negatives", "image_grounded", "text_grounded", "ema_distill"])
def test_wrong_texts_that_are_not_there_may_hold_anything(name: str) -> None:
    tensors = tensors_of(BY_NAME[name], ROWS, SLOTS, WIDTH)
    out = ~tensors["neg_mask"] | ~tensors["text_mask"].any(1, keepdim=True)
    junk = {n: v.masked_fill(out[..., None], torch.nan) if "neg_text" in n else v for n, v in tensors.items()}
    assert loss_by_name(name, junk).total == loss_by_name(name, tensors).total


@pytest.mark.parametrize("name", ["local_mi", "grouping", "instance"])
def test_tokens_of_rows_without_a_text_may_hold_anything(name: str) -> None:
    tensors = tensors_of(BY_NAME[name], ROWS, SLOTS, WIDTH)
    junk = dict(tensors)
    for which in ("image_tokens", "teacher_image_tokens"):
        junk[which] = tensors[which].masked_fill(~tensors["text_mask"].any(1)[:, None, None], torch.nan)
    junk["teacher_text_tokens"] = tensors["teacher_text_tokens"].masked_fill(
        ~tensors["text_token_mask"][..., None], torch.nan
    )
    assert loss_by_name(name, junk).total == loss_by_name(name, tensors).total


def test_the_local_scale_begins_as_clips_and_learns() -> None:
    scale = LocalScale()(torch.zeros(1, 2), torch.zeros(1, 1, 2)).shared["scale"]
    assert scale.item() == pytest.approx(1 / 0.07)
    tensors = tensors_of(BY_NAME["instance"], ROWS, SLOTS, WIDTH)
    loss_by_name("instance", tensors).total.backward()
    assert tensors["local_scale"].grad.abs() > 1e-6


def test_patches_like_its_text_cost_less_and_equal_ones_give_chance() -> None:
    tensors = tensors_of(BY_NAME["grouping"], 4, 1, WIDTH, holes=False)
    tensors["text"] = torch.eye(4, WIDTH, dtype=torch.float64)[:, None].requires_grad_()
    signs = torch.tensor([1.0, -1, -1, -1], dtype=torch.float64)
    near = {**tensors, "image_tokens": tensors["text"].detach() * signs[:, None]}
    # Every patch of another row's image is at a right angle to the text: none of them weighs anything.
    equal = {**tensors, "image_tokens": near["image_tokens"].roll(1, 0)}
    assert loss_by_name("grouping", near).total < math.log(4) - 0.5
    total = loss_by_name("grouping", equal).total
    assert total.item() == pytest.approx(math.log(4))
    (gradient,) = torch.autograd.grad(total, tensors["text"])
    assert gradient.isfinite().all()


def test_crops_that_share_no_place_move_nothing() -> None:
    tensors = tensors_of(BY_NAME["pixpro"], ROWS, SLOTS, WIDTH)
    tensors["view_boxes"] = tensors["view_boxes"].clone()
    tensors["view_boxes"][:, 1] += 100
    found = loss_by_name("pixpro", tensors).total
    assert found == 0
    assert not torch.autograd.grad(found, tensors["view_tokens"])[0].any()


def test_a_mirrored_crop_is_matched_by_where_its_patches_lie() -> None:
    # Both crops are the whole image, the second mirrored: patch (row, column) lies at (row, last - column).
    box = torch.tensor([[[0.0, 0, 8, 8], [8, 0, 0, 8]]], dtype=torch.float64)
    there = at_one_place(box, 9, 0.7)[0]
    mirrored = torch.arange(9).view(3, 3).flip(1).flatten()
    assert torch.equal(there.nonzero()[:, 1], mirrored) and there.sum() == 9
    # At 1.01 diagonals a patch also has those beside, above and across from it.
    assert at_one_place(box, 9, 1.01)[0].sum() == (2 + 3 + 2) ** 2


def test_the_patch_of_another_tower_is_refused() -> None:
    tensors = tensors_of(BY_NAME["masked_image"], ROWS, SLOTS, WIDTH)
    weights = [name for name in tensors if name.startswith("decoder_")]
    with pytest.raises(RecipeError, match=r"must.*\n.*12 values"):
        loss_by_name("masked_image", {n: v for n, v in tensors.items() if n not in weights}, {"patch": 3})


def test_a_queue_of_all_slots_is_that_of_its_first_texts() -> None:
    tensors, settings = tensors_of(BY_NAME["intra_modal"], ROWS, SLOTS, WIDTH), BY_NAME["intra_modal"].settings[0]
    first = tensors["queue_text"]
    # The first row has a text in the last slot alone, the others have more texts than one.
    whole = torch.stack([first, *[first.roll(1, 0)] * (SLOTS - 1)], 1)
    whole[~first.any(1)] = 0
    whole[0, :-1], whole[0, -1] = 0, first[0]
    found = loss_by_name("intra_modal", {**tensors, "queue_text": whole}, settings).total
    assert found == loss_by_name("intra_modal", tensors, settings).total
