"""The queue and the schedule of momentum distillation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from entries import tensors_of
from every_entry import BY_NAME
from gloo_ranks import run_on_ranks
from naive_targets import momentum as by_hand
from torch import Tensor

from pairmill.errors import RecipeError
from training.gather import Exchange, open_exchange
from training.objectives import loss_by_name
from training.objectives.by_name import computed

ROWS, SLOTS, WIDTH = 6, 2, 4


def batch(seed: int = 0, **more: Any) -> dict[str, Any]:
    """A batch without queues; row 1 has no text."""
    tensors = tensors_of(BY_NAME["momentum"], ROWS, SLOTS, WIDTH, seed=seed)
    return {name: value for name, value in tensors.items() if not name.startswith("queue")} | more


def state_after(tensors: dict[str, Any], queue: int, exchange: Exchange | None = None) -> dict[str, Tensor]:
    return computed("momentum", tensors, {"queue": queue}, "paper", exchange or Exchange())[1].state


def test_a_step_puts_the_rows_with_a_text_into_the_queues() -> None:
    tensors = batch()
    there, mask = tensors["text_mask"].any(1), tensors["text_mask"]
    state = state_after(tensors, 8)
    assert state["queue_count"] == int(there.sum()) == 5
    torch.testing.assert_close(state["queue_image"][:5], tensors["teacher_image"][there].float())
    texts = torch.where(mask[..., None], tensors["teacher_text"], 0)[there]
    torch.testing.assert_close(state["queue_text"][:5], texts.float())
    assert not state["queue_image"][5:].any()
    assert (state["queue_label"][5:] == -1).all()


def test_new_rows_replace_the_oldest() -> None:
    first = state_after(batch(0), 7)
    later = batch(1, sample_id=torch.arange(ROWS) + 100)
    second = state_after({**later, **first}, 7)
    there = later["text_mask"].any(1)
    new = later["teacher_image"][there].float()
    assert len(new) == 5 and second["queue_count"] == 10
    # Places 5 and 6, then from the beginning; two of the first step are left.
    expected = torch.cat([new[2:], first["queue_image"][3:5], new[:2]])
    torch.testing.assert_close(second["queue_image"], expected)


def test_a_queue_smaller_than_a_batch_keeps_the_last_rows() -> None:
    tensors = batch()
    state = state_after(tensors, 2)
    last = tensors["teacher_image"][tensors["text_mask"].any(1)][-2:].float()
    assert {tuple(row) for row in state["queue_image"].tolist()} == {tuple(row) for row in last.tolist()}


def test_without_a_queue_the_batch_is_all_there_is() -> None:
    tensors = batch()
    found = loss_by_name("momentum", tensors, {"queue": 0}).total
    assert torch.equal(found, loss_by_name("momentum", tensors, {"queue": 16}).total)


def test_an_earlier_step_of_the_same_rows_brings_no_negatives() -> None:
    tensors = batch()
    # One row in the batch and one in the queue.
    tensors["text_mask"][1:] = False
    before = loss_by_name("momentum", tensors, {"queue": 8}).total
    queue = state_after(tensors, 8)
    torch.testing.assert_close(loss_by_name("momentum", {**tensors, **queue}, {"queue": 8}).total, before)
    others = {**tensors, **queue, "sample_id": tensors["sample_id"] + 100}
    assert loss_by_name("momentum", others, {"queue": 8}).total > before + 0.1


def test_an_earlier_row_of_the_same_group_is_no_negative() -> None:
    tensors = batch(group_id=torch.full((ROWS,), 4))
    before = loss_by_name("momentum", tensors, {"queue": 8}).total
    later = {**tensors, **state_after(tensors, 8), "sample_id": tensors["sample_id"] + 100}
    torch.testing.assert_close(loss_by_name("momentum", later, {"queue": 8}).total, before)
    apart = {**later, "group_id": torch.full((ROWS,), -1)}
    assert loss_by_name("momentum", apart, {"queue": 8}).total > before + 0.1


@pytest.mark.parametrize(("step", "share"), [(0, 0.0), (5, 0.2), (10, 0.4), (25, 0.4)])
def test_the_teachers_share_grows_over_the_first_epoch(step: int, share: float) -> None:
    tensors = tensors_of(BY_NAME["momentum"], ROWS, SLOTS, WIDTH)
    where = {"step": step, "steps": 30, "steps_per_epoch": 10}
    found = loss_by_name("momentum", {**tensors, **where}, {"queue": 5}).total
    torch.testing.assert_close(found, by_hand(tensors, {"alpha": share}, "paper"))


@pytest.mark.parametrize("slots", [1, 3])
def test_queues_may_be_of_any_length_and_of_first_texts(slots: int) -> None:
    tensors = tensors_of(BY_NAME["momentum"], ROWS, slots, WIDTH)

    def total(**queues: Tensor) -> Tensor:
        return loss_by_name("momentum", {**tensors, **queues}, {"queue": 5}).total

    image, text = tensors["queue_image"], tensors["queue_text"]
    firsts = torch.cat([text[:, :1], torch.zeros_like(text[:, 1:])], 1)
    assert total(queue_text=text[:, 0]) == total(queue_text=firsts)
    filled = torch.cat([text[:3], torch.zeros_like(text[3:])])
    torch.testing.assert_close(total(queue_text=text[:3]), total(queue_text=filled))
    empty = torch.zeros_like(image)
    left_out = {name: value for name, value in tensors.items() if name != "queue_image"}
    found = loss_by_name("momentum", left_out, {"queue": 5}).total
    torch.testing.assert_close(found, total(queue_image=empty))


@pytest.mark.parametrize("name", ["momentum", "intra_modal"])
def test_labels_of_a_queue_are_as_many_as_its_rows(name: str) -> None:
    tensors, settings = tensors_of(BY_NAME[name], ROWS, SLOTS, WIDTH), BY_NAME[name].settings[0]
    labels = "queue_label" if name == "momentum" else "queue_group"
    tensors = {one: value for one, value in tensors.items() if one not in ("queue_id", "queue_group")}
    given = {**tensors, labels: torch.arange(3)}
    with pytest.raises(RecipeError, match=f"{labels} must be as large as the rows of each queue"):
        loss_by_name(name, given, settings)


def _on_rank(rank: int, tensors: dict[str, Any]) -> dict[str, Tensor]:
    mine = slice(rank * 3, rank * 3 + 3)
    by_row = {
        name: value[mine] if isinstance(value, Tensor) and value.ndim else value for name, value in tensors.items()
    }
    return state_after(by_row, 4, open_exchange("local")(0))


@pytest.mark.slow
def test_ranks_hold_the_queue_of_one_process() -> None:
    tensors = batch()
    tensors = {name: value.detach() for name, value in tensors.items()}
    alone = state_after(tensors, 4)
    for found in run_on_ranks(2, _on_rank, tensors):
        assert all(torch.equal(found[name], value) for name, value in alone.items())
