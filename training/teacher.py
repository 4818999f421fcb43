"""The teachers that objectives ask for: models that encode the same rows as the student does, and get no gradient.

    moving average   teacher ← d·teacher + (1 − d)·student after every update, d constant (MoCo, He et al. 2020; ALBEF,
                     Li et al. 2021)
    frozen           the model as its run began, so with `model.pretrained`'s weights where there are any

The average is of the whole module, heads included; the frozen one has no heads, which nothing has taught.  Both encode
in evaluation mode, so that nothing is dropped; batch norms use the student's running statistics in the average, and
those of the run's beginning in the frozen one.  Every rank holds the same weights, 4 bytes a parameter and teacher; at
ZeRO stage 3 no rank has the student's, and the recipe is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call

from pairmill.errors import IntegrityError, RecipeError
from training.ema import Ema
from training.model import LOSS_PARAMETERS, DualEncoder, Features, Own, Rows
from training.objectives.declaration import Objective


class Teacher:
    """The average of a DualEncoder."""

    def __init__(self, module: DualEncoder, decay: float) -> None:
        """module: its present weights, on its device, are the first teacher.  decay: d.

        Raises RecipeError unless 0 < d < 1.
        """
        if not 0 < decay < 1:
            raise RecipeError(
                "the teacher_decay of an objective must lie between 0 and 1",
                value=decay,
                fix="give a share such as 0.995",
            )
        self._module = module
        self._average = Ema(module, decay, warm_up=False)

    def __call__(self, parts: Sequence[Rows]) -> Features:
        """The features of all rows, encoded a part at a time."""
        kinds = {name: parameter.dtype for name, parameter in self._module.named_parameters()}
        weights = {name: shadow.to(kinds[name]) for name, shadow in self._average.shadow.items()}
        return _encoded(self._module, weights, parts)

    def update(self) -> None:
        """Move towards the student after a step."""
        self._average.update(self._module.named_parameters())

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint, as `Ema.state_dict`."""
        return self._average.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint of the same model and objective.  Raises IntegrityError for one of another."""
        self._average.load_state_dict(state)


class Frozen:
    """The model of a DualEncoder as it was, while the module itself learns."""

    def __init__(self, module: DualEncoder) -> None:
        """module: its present weights and buffers, on its device and in its types, are kept."""
        self._module = module
        changing = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
        changing |= {name for name, _ in module.named_buffers()}
        # A temperature that does not learn may follow a schedule.
        changing |= {f"model.{name}" for name in LOSS_PARAMETERS}
        self._kept: dict[str, Tensor] = {
            name: value.detach().clone()
            for name, value in module.state_dict().items()
            if name in changing and name.startswith("model.")
        }

    def __call__(self, parts: Sequence[Rows]) -> Features:
        """The features of all rows, encoded a part at a time, without `own`."""
        return _encoded(self._module, self._kept, parts)._replace(own=Own({}, {}))

    def state_dict(self) -> dict[str, Tensor]:
        """For a checkpoint: the tensors themselves, not copies."""
        return dict(self._kept)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a checkpoint of the same model and objective.  Raises IntegrityError for one of another."""
        if state.keys() != self._kept.keys():
            raise IntegrityError("a checkpoint's frozen teacher must be of the run's model; it is of another")
        for name, kept in self._kept.items():
            kept.copy_(state[name])


class Taught(NamedTuple):
    """What the teachers make of all rows of a step, None of one that there is not."""

    average: Features | None = None
    frozen: Features | None = None

    def beside(self, features: Features) -> Features:
        """The student's features with those of its teachers."""
        return features._replace(teacher=self.average, frozen=self.frozen)


class Teachers(NamedTuple):
    """Those that an objective asks for."""

    average: Teacher | None
    frozen: Frozen | None
    further: bool  #: whether they encode further views and texts

    def __call__(self, parts: Sequence[Rows]) -> Taught:
        """What each makes of all rows, encoded a part at a time."""
        if not self.further:
            parts = [part._replace(further=None) for part in parts]
        return Taught(*(None if one is None else one(parts) for one in (self.average, self.frozen)))

    def update(self) -> None:
        """After a step."""
        if self.average is not None:
            self.average.update()


def open_teachers(module: DualEncoder, objective: Objective) -> Teachers | None:
    """The teachers of a run, as it begins; None where its objective asks for none.  Raises RecipeError as `Teacher`."""
    average = Teacher(module, objective.teacher_decay) if "teacher" in objective.needs else None
    frozen = Frozen(module) if "frozen_teacher" in objective.needs else None
    return None if average is None and frozen is None else Teachers(average, frozen, objective.teacher_further)


@torch.no_grad()
def _encoded(module: DualEncoder, weights: dict[str, Tensor], parts: Sequence[Rows]) -> Features:
    was_training = module.training
    module.eval()
    try:
        return Features.joined([functional_call(module, weights, (part,)) for part in parts])
    finally:
        module.train(was_training)
