"""The teacher of an objective that needs one: a moving average of the whole module, which encodes the same rows.

    teacher ← d·teacher + (1 − d)·student after every update, d constant (MoCo, He et al. 2020; ALBEF, Li et al. 2021)

It encodes in evaluation mode, so that nothing is dropped and batch norms use the student's running statistics.  Every
rank holds the same weights, 4 bytes a parameter; at ZeRO stage 3 no rank has the student's, and the recipe is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.func import functional_call

from pairmill.errors import RecipeError
from training.ema import Ema
from training.model import DualEncoder, Features, Rows


class Teacher:
    """The average of a DualEncoder, heads included."""

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

    @torch.no_grad()
    def __call__(self, parts: Sequence[Rows]) -> Features:
        """The features of all rows, encoded a part at a time."""
        module = self._module
        kinds = {name: parameter.dtype for name, parameter in module.named_parameters()}
        weights = {name: shadow.to(kinds[name]) for name, shadow in self._average.shadow.items()}
        was_training = module.training
        module.eval()
        try:
            return Features.joined([functional_call(module, weights, (part,)) for part in parts])
        finally:
            module.train(was_training)

    def update(self) -> None:
        """Move towards the student after a step."""
        self._average.update(self._module.named_parameters())

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint, as `Ema.state_dict`."""
        return self._average.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint of the same model and objective.  Raises IntegrityError for one of another."""
        self._average.load_state_dict(state)
