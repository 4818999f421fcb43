"""What changes from step to step by plan: the learning rate, the temperature, the sizes of images and texts.

Functions of the step alone.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, TypeAlias

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


#: (share of the run's steps from which it holds, value), in order.
Stages: TypeAlias = tuple[tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[int, Field(ge=1)]], ...]


class CurriculumConfig(Config):
    """Small images and short texts first, which cost less (CLIPA, Li et al. 2023)."""

    image_size: Stages = Field(
        (),
        description="[[share of the steps, pixels], …]: side of the images from there on, e.g. [[0, 112], [0.5, 224]]; "
        "the last is the model's; position embeddings are interpolated; []: always the model's",
    )
    text_length: Stages = Field(
        (),
        description="[[share of the steps, tokens], …]: most tokens of a text from there on, e.g. [[0, 16], [0.5, 77]];"
        " the last is the context length; []: always that",
    )

    @model_validator(mode="after")
    def _in_order(self) -> CurriculumConfig:
        for name in ("image_size", "text_length"):
            starts = [start for start, _ in getattr(self, name)]
            if starts and (starts[0] != 0 or sorted(set(starts)) != starts):
                raise RecipeError(
                    f"curriculum.{name} must begin at 0, and each of its shares must be larger than the one before",
                    value=starts,
                    fix="give shares such as 0, 0.5, 0.9",
                )
        return self

    def check(self, *, image_size: int, context_length: int, any_length: bool) -> None:
        """Raise RecipeError unless the run ends with what its model is evaluated and exported with.

        image_size, context_length: the model's.  any_length: whether its text tower computes less for shorter texts.
        """
        for name, whole in (("image_size", image_size), ("text_length", context_length)):
            values = [value for _, value in getattr(self, name)]
            if values and (values[-1] != whole or max(values) > whole):
                raise RecipeError(
                    f"curriculum.{name} must end with the model's, which none of it may exceed",
                    value=f"{values}, the model's is {whole}",
                    fix=f"end with {whole}, or set model.{'context_length' if name == 'text_length' else name}",
                )
        if self.text_length and not any_length:
            raise RecipeError(
                "with curriculum.text_length, padding must make no difference to the text tower",
                value="model.architecture reads all positions of its context",
                fix="choose a causal tower pooled at the end of the text, such as ViT-B-32's, or a model.text_model",
            )
        if any(tokens < 3 for _, tokens in self.text_length):
            raise RecipeError(
                "curriculum.text_length must leave room for a word between the start and end tokens",
                value=min(tokens for _, tokens in self.text_length),
                fix="use 3 or more",
            )

    def image_size_at(self, step: int, steps: int) -> int | None:
        """Side in pixels of the images of step 0 … steps - 1; None: the model's."""
        return _at(self.image_size, step, steps)

    def text_length_at(self, step: int, steps: int) -> int | None:
        """Most tokens of a text in step 0 … steps - 1; None: the context length."""
        return _at(self.text_length, step, steps)

    def identity(self) -> dict[str, Any]:
        """As for every configuration, without what is not set."""
        return {name: value for name, value in super().identity().items() if value}


def _at(stages: Stages, step: int, steps: int) -> int | None:
    return next((value for start, value in reversed(stages) if step >= start * steps), None)
