"""The moving average of the weights: a float32 shadow beside the model, swapped in to evaluate or export."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pairmill.errors import IntegrityError


class Ema:
    """shadow ← d·shadow + (1 − d)·weight after every step, d = min(decay, (1 + n) / (10 + n)) at the n-th update.

    The warm-up of d is that of TensorFlow's ExponentialMovingAverage: without it the initial weights dominate for
    1/(1 − decay) steps.  Parameters that do not learn are not shadowed.

    Works with DeepSpeed's ZeRO stages 0, 1 and 2, where every rank holds every weight: each rank keeps the same shadow,
    4 bytes a parameter.  Under stage 3 a rank sees shards; there is no average.
    """

    def __init__(self, model: nn.Module, decay: float, *, warm_up: bool = True) -> None:
        """model: its learning parameters, as they are now and on their device, are the first shadow.  decay: 0 < d < 1.

        warm_up: false: d = decay from the first update on.  Raises ValueError for another decay.
        """
        if not 0 < decay < 1:
            raise ValueError(f"decay must lie between 0 and 1: {decay}")
        self.decay = decay
        self._warm_up = warm_up
        self.updates = 0
        self.shadow: dict[str, Tensor] = {
            name: parameter.detach().to(torch.float32, copy=True)
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }

    @torch.no_grad()
    def update(self, named_parameters: Iterable[tuple[str, Tensor]]) -> None:
        """Move towards the weights after a step: float32 masters where there are any, all shadowed names among them."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self._warm_up else self.decay
        self.updates += 1
        seen = 0
        for name, parameter in named_parameters:
            if name in self.shadow:
                shadow = self.shadow[name]
                shadow.lerp_(parameter.detach().to(shadow), 1 - decay)
                seen += 1
        if seen != len(self.shadow):
            raise IntegrityError(
                f"the model must have every averaged parameter: {len(self.shadow) - seen} are missing from the model"
            )

    @contextmanager
    def swapped_in(self, model: nn.Module) -> Iterator[None]:
        """The model has the averaged weights inside the block, and exactly its own again after it."""
        own = {n: p.detach().clone() for n, p in model.named_parameters() if n in self.shadow}
        try:
            _copy(self.shadow, model)
            yield
        finally:
            _copy(own, model)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: tensors and a count (the tensors are the shadow itself, not copies)."""
        return {"updates": self.updates, "shadow": dict(self.shadow)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint of the same model.  Raises IntegrityError for one of another."""
        if state["shadow"].keys() != self.shadow.keys():
            raise IntegrityError("a checkpoint's average must be of the parameters that learn; it is of another model")
        self.updates = int(state["updates"])
        for name, shadow in self.shadow.items():
            shadow.copy_(state["shadow"][name])


@torch.no_grad()
def _copy(source: dict[str, Tensor], model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if name in source:
            parameter.copy_(source[name])
