"""The state of a user's own objective: what no checkpoint could hold is refused at once, not when a run resumes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from pairmill.errors import RecipeError
from pairmill.registry import NamedConfig
from training.objectives.config import LossConfig
from training.objectives.declaration import Kept, Objective, Setup

SETUP = Setup(8, 1, 4, 0, 1, (4, 4), 0, torch.device("cpu"))


class Queue(Objective):
    keeps = (Kept("queue", "replicated", "texts"), Kept("filled", "replicated", "how many there are"))

    def start(self, setup: Setup) -> Mapping[str, Tensor]:
        return {"queue": torch.zeros(3, setup.width), "filled": torch.tensor(0)}

    def __call__(self, *args: Any) -> Any:
        raise AssertionError("not called here")


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "without a comma": ({"keeps": Kept("queue", "replicated", "texts")}, "`keeps` as a tuple of Kept"),
    "names only": ({"keeps": ("queue",)}, "`keeps` as a tuple of Kept"),
    # It would be in no checkpoint.
    "nowhere": ({"keeps": (Kept("queue", "everywhere", "texts"),)}, r"keep each tensor.*\n.*queue: everywhere"),  # type: ignore[arg-type]
    "twice": ({"keeps": (Kept("queue", "replicated", "texts"),) * 2}, "name each tensor of `keeps` once"),
    "needs without a comma": ({"needs": "teacher"}, "`needs` as a tuple of names"),
    "no loss": ({"__call__": Objective.__call__}, "define __call__"),
}


@pytest.mark.parametrize("how", REFUSED)
def test_a_declaration_that_cannot_work_is_refused_with_the_recipe(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    changed, says = REFUSED[how]
    kind = type("Named", (Queue,), {"__module__": __name__, **changed})
    monkeypatch.setattr(sys.modules[__name__], "Named", kind, raising=False)
    with pytest.raises(RecipeError, match=rf"(?s){says}"):
        LossConfig.checked({"objective": f"{__name__}:Named"}, at="loss")


#: What `after_step` does to the state.
CHANGES: dict[str, Any] = {
    "grows": lambda state: {"queue": torch.cat([state["queue"], torch.ones(2, 8)])},
    "another type": lambda state: {"queue": state["queue"].half()},
    "another tensor": lambda state: {"seen": torch.zeros(1)},
    "a number": lambda state: {"filled": 3},
}


@pytest.mark.parametrize("how", CHANGES)
def test_state_that_could_not_be_resumed_ends_the_run_at_its_step(how: str) -> None:
    objective = Queue(NamedConfig(name="queue"))
    objective.begin(SETUP)
    objective.check_state()
    objective.state["queue"] = objective.state["queue"] + 1
    objective.check_state()
    objective.state |= CHANGES[how](objective.state)
    with pytest.raises(RecipeError, match=r"leave the state in the form that start gave it.*\n.*queue \[3, 8\]"):
        objective.check_state()


def test_a_number_is_no_state() -> None:
    class Counts(Queue):
        def start(self, setup: Setup) -> Mapping[str, Tensor]:
            return {**super().start(setup), "filled": 0}  # type: ignore[dict-item]

    with pytest.raises(RecipeError, match=r"must give tensors only\n.*filled: int"):
        Counts(NamedConfig(name="counts")).begin(SETUP)
