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
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pairmill.errors import IntegrityError, RecipeError
from training.ema import Ema
from training.model import LOSS_PARAMETERS, DualEncoder, Features, Own, Rows
from training.objectives.declaration import Objective
from training.patch_keeping import Judge, with_kept
from training.token_mask import IMPORTANCE, with_importance

if TYPE_CHECKING:
    from training.recipe import PatchKeepingConfig


class Teacher:
    """The average of a DualEncoder."""

    def __init__(self, module: DualEncoder, decay: float, *, importance: bool = False) -> None:
        """module: its present weights, on its device, are the first teacher.  decay: d.

        importance: whether its features have that of each token (`training.token_mask`).

        Raises RecipeError unless 0 < d < 1.
        """
        if not 0 < decay < 1:
            raise RecipeError(
                "the teacher_decay of an objective must lie between 0 and 1",
                value=decay,
                fix="give a share such as 0.995",
            )
        self._module, self._importance = module, importance
        self._average = Ema(module, decay, warm_up=False)

    def __call__(self, parts: Sequence[Rows]) -> Features:
        """The features of all rows, encoded a part at a time."""
        return _encoded(self._module, self._weights(), parts, self._importance)

    def likeness(self, parts: Sequence[Rows]) -> Tensor:
        """How like each patch of an image is to its text, for `train.patch_keeping`: see `patch_keeping.Judge`."""
        judge = Judge(self._module)
        weights = {f"encoder.{name}": value for name, value in self._weights().items()}
        return torch.cat(_called(judge, weights, parts))

    def _weights(self) -> dict[str, Tensor]:
        kinds = {name: parameter.dtype for name, parameter in self._module.named_parameters()}
        return {name: shadow.to(kinds[name]) for name, shadow in self._average.shadow.items()}

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
    """The model of a DualEncoder, with its corner tokens, as it was, while the module itself learns."""

    def __init__(self, module: DualEncoder, *, importance: bool = False) -> None:
        """module: its present weights and buffers, on its device and in its types, are kept.  importance: as above."""
        self._module, self._importance = module, importance
        changing = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
        changing |= {name for name, _ in module.named_buffers()}
        # A temperature that does not learn may follow a schedule.
        changing |= {f"model.{name}" for name in LOSS_PARAMETERS}
        self._kept: dict[str, Tensor] = {
            name: value.detach().clone()
            for name, value in module.state_dict().items()
            if name in changing and name.startswith(("model.", "corners."))
        }

    def __call__(self, parts: Sequence[Rows]) -> Features:
        """The features of all rows, encoded a part at a time, without `own`."""
        return _encoded(self._module, self._kept, parts, self._importance)._replace(own=Own({}, {}))

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

    def of_tokens(self) -> Tensor:
        """The importance of tokens [B, K, L], of the teacher that gives it.  Raises IntegrityError where none does."""
        for one in self:
            if one is not None and IMPORTANCE in one.asked:
                return one.asked[IMPORTANCE]
        raise IntegrityError("a run with loss.mask_tokens must have a teacher that says what is important")

    def beside(self, features: Features) -> Features:
        """The student's features with those of its teachers."""
        return features._replace(teacher=self.average, frozen=self.frozen)


class Teachers(NamedTuple):
    """Those that an objective asks for."""

    average: Teacher | None
    frozen: Frozen | None
    keeping: PatchKeepingConfig | None = None  #: the average judges patches
    taught: bool = True  #: whether the objective asks for the average
    further: bool = True  #: whether they encode further views and texts

    def __call__(self, parts: Sequence[Rows]) -> Taught:
        """What each makes of all rows, encoded a part at a time."""
        if not self.further:
            parts = [part._replace(further=None) for part in parts]
        average = self.average if self.taught else None
        return Taught(*(None if one is None else one(parts) for one in (average, self.frozen)))

    def keep(self, rows: Rows, parts: Sequence[Rows], *, seed: int, step: int) -> Rows:
        """The rows, some of whose images are to be encoded from the patches most like their text."""
        if self.keeping is None or self.average is None:
            return rows
        return with_kept(rows, self.average.likeness(parts), self.keeping, seed, step)

    def update(self) -> None:
        """After a step."""
        if self.average is not None:
            self.average.update()


def open_teachers(
    module: DualEncoder, objective: Objective, keeping: PatchKeepingConfig | None = None
) -> Teachers | None:
    """The teachers of a run, as it begins; None where nothing asks for one.  Raises RecipeError as `Teacher`.

    keeping: `train.patch_keeping`, which has the average that the objective would have.
    """
    says = objective.token_mask.teacher if objective.token_mask is not None else None
    taught, average, frozen = "teacher" in objective.needs, None, None
    if taught or keeping is not None:
        average = Teacher(module, objective.teacher_decay, importance=says == "average")
    if "frozen_teacher" in objective.needs:
        frozen = Frozen(module, importance=says == "frozen")
    if average is None and frozen is None:
        return None
    return Teachers(average, frozen, keeping, taught, objective.teacher_further)


def _encoded(module: DualEncoder, weights: dict[str, Tensor], parts: Sequence[Rows], importance: bool) -> Features:
    """What a DualEncoder of these weights makes of all rows.  importance: of tokens, in place of them."""
    encoded = _called(module, weights, parts, importance)
    return Features.joined([with_importance(one) if importance else one for one in encoded])


@torch.no_grad()
def _called(module: nn.Module, weights: dict[str, Tensor], parts: Sequence[Rows], *given: object) -> list[Any]:
    was_training = module.training
    module.eval()
    try:
        # Nothing is hidden from a teacher.
        return [functional_call(module, weights, (part._replace(draw_B=None, kept=None), *given)) for part in parts]
    finally:
        module.train(was_training)
