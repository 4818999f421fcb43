"""A term of a loss that sees the embeddings through a projector of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from pairmill.config import Config
from pairmill.errors import RecipeError
from training.objectives.declaration import NEEDS, Objective, Setup

if TYPE_CHECKING:
    from torch import Tensor, nn

    from training.gather import Exchange
    from training.losses.loss_inputs import LossOutput
    from training.model import Features, Rows

#: Needs whose tensors can be projected, or are no embeddings.
_PROJECTED = ("teacher", "raw", "image_views", "views", "negatives", "present", "columns")
_FURTHER = ("image_views", "text_views", "neg_text")


class ProjectorConfig(Config):
    """Perceptrons between the towers and a term, one for images and one for texts (CL2L, Fini et al. 2023)."""

    layers: int = Field(3, ge=1, le=8, description="linear layers; 1: a plain projection (3: CL2L)")
    hidden: int = Field(4096, ge=1, description="width of the hidden layers (4096: CL2L)")
    width: int | None = Field(
        None, ge=1, description="numbers of a projected embedding; null: as many as the model's have (CL2L)"
    )
    norm: Literal["batch", "layer"] = Field(
        "batch",
        description="of the hidden layers; batch: over the whole batch of all workers (CL2L), which must be one "
        "micro-batch; layer: of each row by itself",
    )
    input: Literal["tower", "embedding"] = Field(
        "tower",
        description="what is projected; tower: what the towers give before their own projection (CL2L), which the term "
        "then does not train; embedding: the model's embeddings",
    )
    temperature: float | None = Field(
        0.1, gt=0, description="of the term's own, where it begins; it is learnt (0.1: CL2L); null: the model's"
    )


class Projected(Objective):
    """An objective of projected embeddings; its own state and heads are as without a projector.

    The logit bias of sigmoid objectives stays the model's.  The projector's scale is learnt without a limit.
    """

    def __init__(self, inner: Objective, projector: ProjectorConfig, key: str) -> None:
        """key: of the recipe.  Raises RecipeError for an objective of more than embeddings."""
        super().__init__(inner.config)
        if odd := [need for need in inner.needs if need not in _PROJECTED]:
            raise RecipeError(
                f"{key} must be null for an objective of more than embeddings and their averaged teacher",
                value=f"{inner.config.name}, which needs {', '.join(odd)}",
                fix=f"remove {key}",
            )
        self._inner, self._projector = inner, projector
        self.modes, self.teacher_tensors = inner.modes, inner.teacher_tensors
        self.teacher_further = inner.teacher_further
        self.columns, self.keeps = inner.columns, inner.keeps
        self.temperature_init = inner.temperature_init
        self.undecayed = tuple(f"inner.{name}" for name in inner.undecayed)
        self.mixes_rows = projector.norm == "batch"
        more = (("tower",) if projector.input == "tower" else ()) + (("present",) if self.mixes_rows else ())
        self.needs = tuple(dict.fromkeys([*(need for need in inner.needs if need != "raw"), *more]))

    @property
    def tensors(self) -> tuple[str, ...]:
        """See `Objective`; with what the tower gives of further embeddings, where that is projected."""
        own = super().tensors
        return own + tuple(f"tower_{name}" for name in _FURTHER if name in own and "tower" in self.needs)

    @property
    def bias_init(self) -> float | None:
        """See `Objective`."""
        return self._inner.bias_init

    @property
    def bias_given(self) -> float | None:
        """See `Objective`."""
        return self._inner.bias_given

    @property
    def teacher_decay(self) -> float:
        """See `Objective`."""
        return self._inner.teacher_decay

    def start(self, setup: Setup) -> Mapping[str, Tensor]:
        """See `Objective`."""
        self._inner.begin(self._of_inner(setup))
        return self._inner.state

    def heads(self, setup: Setup) -> nn.Module:
        """See `Objective`."""
        from training.losses.separate_projector import SeparateProjector

        projector, own = self._projector, self._of_inner(setup)
        tower = projector.input == "tower"
        if tower and setup.tower_widths is None:
            raise RuntimeError("a projector of the towers' output must know their widths")
        return SeparateProjector(
            setup.tower_widths if tower and setup.tower_widths else (setup.width, setup.width),
            (*[projector.hidden] * (projector.layers - 1), own.width),
            projector.norm,
            begin="tower_" if tower else "",
            further=[name for name in _FURTHER if name in self._inner.tensors],
            temperature=projector.temperature,
            inner=self._inner.heads(own),
            inner_tensors=self._inner.tensors,
        )

    def _of_inner(self, setup: Setup) -> Setup:
        return setup._replace(width=self._projector.width or setup.width)

    def _projected(self, features: Features) -> Features:
        """The features with projected embeddings in place of the model's."""
        from training.model import Own

        rows, shared = features.own
        inner = (
            {name.removeprefix("inner."): value for name, value in part.items() if name.startswith("inner.")}
            for part in features.own
        )
        projected = {name: rows[name] for need in self._inner.needs for name in NEEDS[need].tensors if name in rows}
        return features._replace(
            image_BD=rows["image"],
            text_BKD=rows["text"],
            scale=shared.get("scale", features.scale),
            own=Own(*inner),
            asked={**features.asked, **projected},
            teacher=None if features.teacher is None else self._projected(features.teacher),
        )

    def _ready(self) -> Objective:
        self._inner.when, self._inner.form, self._inner.state = self.when, self.form, self.state
        return self._inner

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        """See `Objective`."""
        return self._ready()(self._projected(features), rows, exchange)

    def after_step(self, features: Features, rows: Rows, exchange: Exchange) -> None:
        """See `Objective`."""
        self._ready().after_step(self._projected(features), rows, exchange)
        self.state = self._inner.state
