"""What is the same on all workers is saved once only while it is so."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from gloo_ranks import run_on_ranks
from test_step import recipe, setup_of
from torch import Tensor

from pairmill.errors import IntegrityError
from training.gather import Exchange
from training.losses.loss_inputs import LossOutput
from training.model import Features, Rows
from training.objectives.declaration import Kept, Objective, Setup
from training.objectives.saved import to_save


class Queue(Objective):
    """Keeps a queue that must be everyone's, and a count of each worker's own."""

    keeps = (Kept("queue", "replicated", "what all have seen"), Kept("seen", "per_worker", "what this one has seen"))

    def start(self, setup: Setup) -> Mapping[str, Tensor]:
        return {"queue": torch.zeros(3, 2), "seen": torch.zeros(1)}

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        raise NotImplementedError  # saving needs no loss


def _saved(rank: int, differing: str) -> str:
    """What saving says.  A rank imports this module as it is: no assert of pytest's works here under `python -O`."""
    used = recipe(loss={"objective": f"{__name__}:Queue"})
    objective = used.loss.opened()
    objective.begin(setup_of(used, rank, 2))
    objective.state[differing].view(-1)[0] = rank
    try:
        to_save(objective, None, {}, rank=rank)
    except IntegrityError as error:
        return str(error)
    return "saved"


@pytest.mark.slow
def test_replicated_state_that_differs_is_never_saved() -> None:
    said = run_on_ranks(2, _saved, "queue")
    assert len(said) == 2 and all("must be the same on all workers: queue" in one for one in said)


def test_each_worker_s_own_may_differ() -> None:
    assert run_on_ranks(2, _saved, "seen") == ["saved", "saved"]
