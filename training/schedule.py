"""What changes from step to step by plan: the learning rate and the temperature.  Functions of the step alone."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from pairmill.config import Config
from pairmill.errors import RecipeError


class TemperatureConfig(Config):
    """What cosines are divided by.  The model holds its inverse, the logit scale."""

    init: float | None = Field(
        None, gt=0, description="temperature at the start; null: the checkpoint's, else the objective's (clip: 0.07)"
    )
    learnable: bool = Field(True, description="whether the temperature is learnt")
    max: float | None = Field(
        None,
        ge=1,
        description="largest logit scale, 1/temperature; null: 100 (CLIP), or the checkpoint's where that is larger",
    )
    final: float | None = Field(
        None,
        gt=0,
        description="temperature at the last step, approached geometrically; must not be learnable; null: constant",
    )

    @model_validator(mode="after")
    def _consistent(self) -> TemperatureConfig:
        if self.learnable and self.final is not None:
            raise RecipeError(
                "temperature.learnable must be false with temperature.final",
                value=f"learnable: true, final: {self.final}",
                fix="set temperature.learnable: false, or leave final out",
            )
        if self.final is not None and self.init is None:
            raise RecipeError(
                "temperature.init must be given with temperature.final",
                value=f"init: null, final: {self.final}",
                fix="set temperature.init (CLIP: 0.07)",
            )
        for name in ("init", "final"):
            value = getattr(self, name)
            if value is not None and 1 / value > self.highest() * (1 + 1e-6):
                raise RecipeError(
                    f"1 / temperature.{name} must be at most temperature.max",
                    value=f"1 / {value} > {self.highest()}",
                    fix=f"raise temperature.max, or {name}",
                )
        return self

    def highest(self, start: float = 0.0) -> float:
        """The largest logit scale of a run whose first is `start`: SigLIP's checkpoints hold more than CLIP's 100."""
        return max(100.0, start) if self.max is None else self.max

    def scale_at(self, step: int, steps: int) -> float | None:
        """The logit scale that step 0 … steps - 1 uses; None where it is not scheduled."""
        if self.init is None or self.final is None:
            return None
        return float((1 / self.init) * (self.init / self.final) ** (step / max(1, steps - 1)))


class OptimConfig(Config):
    """AdamW and its learning rate.  Defaults: CLIP's for ViT (Radford et al. 2021, table 20), as in open_clip."""

    lr: float = Field(5e-4, gt=0, description="highest learning rate")
    weight_decay: float = Field(0.2, ge=0, description="decoupled weight decay; not on norms, biases and logit scale")
    beta1: float = Field(0.9, ge=0, lt=1, description="decay per step of the mean of gradients")
    beta2: float = Field(0.98, ge=0, lt=1, description="decay per step of the mean of squared gradients")
    eps: float = Field(1e-6, gt=0, description="term added to the root of the mean of squared gradients")
    warmup_steps: int = Field(2000, ge=0, description="steps of linear rise to `lr`")
    schedule: Literal["cosine", "linear", "constant", "wsd"] = Field(
        "cosine",
        description="course after the warm-up; wsd (warm-up, stable, decay): constant, then linear to min_lr in the "
        "last cooldown_steps",
    )
    cooldown_steps: int | None = Field(None, ge=1, description="steps of the decay of wsd; null: a fifth of all steps")
    min_lr: float = Field(0.0, ge=0, description="learning rate at the end")
    clip_norm: float | None = Field(None, gt=0, description="largest norm of the gradient; null: no clipping")

    def lr_at(self, step: int, steps: int) -> float:
        """The learning rate of step 0 … steps - 1, as open_clip counts: the first of n warm-up steps has lr/n."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return self.lr
        first = self.warmup_steps
        if self.schedule == "wsd":
            first = max(first, steps - (self.cooldown_steps or max(1, steps // 5)))
        done = min(1.0, max(0.0, (step - first) / max(1, steps - first)))
        share = (1 + math.cos(math.pi * done)) / 2 if self.schedule == "cosine" else 1 - done
        return self.min_lr + (self.lr - self.min_lr) * share
