"""The recipe section `loss`, and the objectives that it can name."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pairmill.config import Config
from pairmill.registry import ChosenBy, NamedConfig, Registry, derived_from
from training.objectives.clip import ClipConfig
from training.objectives.declaration import Objective, opened

OBJECTIVES: Registry[type[Objective]] = Registry(
    "loss.objective",
    {
        "clip": "training.objectives.clip:Clip",
        "one_to_k": "training.objectives.one_to_k:OneToK",
        "per_slot": "training.objectives.per_slot:PerSlot",
        "siglip": "training.objectives.siglip:Siglip",
    },
    check=derived_from(Objective, key="loss.objective"),
)


class LossConfig(Config):
    """`loss`: what is learnt from a batch, and whose texts are the negatives."""

    objective: Annotated[NamedConfig, ChosenBy(OBJECTIVES)] = Field(
        ClipConfig(name="clip"),
        description="objective to learn: a name of docs/objectives.md, or the import path of your own; with keys of "
        "its own, a mapping of them and `name`",
    )
    mode: Literal["gather", "group", "ring", "local"] = Field(
        "gather",
        description="whose texts are the negatives; gather and ring: those of all workers, with equal results; group: "
        "those of group_size workers, others at every step; local: the worker's own",
    )
    group_size: int | None = Field(None, ge=1, description="workers of a group in mode group; null: all")
    tile: tuple[int, int] = Field(
        (1024, 2048),
        description="rows and columns of the logits held at a time; takes 12 bytes times their product",
    )

    @model_validator(mode="after")
    def _deliverable(self) -> LossConfig:
        self.opened()
        return self

    def opened(self) -> Objective:
        """The objective, which `Objective.begin` readies for a run.  Raises RecipeError as `opened` does."""
        return opened(OBJECTIVES.get(self.objective.name), self.objective)
