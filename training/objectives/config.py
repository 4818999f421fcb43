"""The recipe section `loss`, and the objectives that it can name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from pairmill.config import Config
from pairmill.errors import RecipeError
from pairmill.registry import ChosenBy, NamedConfig, Registry, derived_from
from training.objectives.clip import ClipConfig
from training.objectives.composite import Composite, Term
from training.objectives.declaration import Objective, check_delivered, opened

OBJECTIVES: Registry[type[Objective]] = Registry(
    "loss.objective",
    {
        # What is positive, by the kernels of training/losses.
        "clip": "training.objectives.clip:Clip",
        "one_to_k": "training.objectives.one_to_k:OneToK",
        "per_slot": "training.objectives.per_slot:PerSlot",
        "siglip": "training.objectives.siglip:Siglip",
        "label_smoothing": "training.objectives.label_smoothing:LabelSmoothing",
        "cwcl": "training.objectives.cwcl:Cwcl",
        "momentum": "training.objectives.momentum:Momentum",
        "noise_adaptive": "training.objectives.noise_adaptive:NoiseAdaptive",
        "sdm": "training.objectives.sdm:Sdm",
        "jaccard": "training.objectives.jaccard:Jaccard",
        "circle": "training.objectives.circle:Circle",
        "distill": "training.objectives.distill:Distill",
        "with_negatives": "training.objectives.with_negatives:WithNegatives",
        # Other similarities than the inner product of embeddings.
        "token_max": "training.objectives.token_max:TokenMax",
        "token_max_reduced": "training.objectives.token_max_reduced:TokenMaxReduced",
        "gram": "training.objectives.gram:Gram",
        "multilinear": "training.objectives.multilinear:Multilinear",
        "words": "training.objectives.text_words:Words",
        "levels": "training.objectives.levels:Levels",
        "codebook": "training.objectives.codebook:Codebook",
        # Of embeddings alone.
        "align": "training.objectives.align:Align",
        "uniform": "training.objectives.uniform:Uniform",
        "cross_uniform": "training.objectives.cross_uniform:CrossUniform",
        "mv_infonce": "training.objectives.mv_infonce:MvInfonce",
        "mv_dhel": "training.objectives.mv_dhel:MvDhel",
        "mixup": "training.objectives.mixup:Mixup",
        "barlow": "training.objectives.barlow:Barlow",
        "siam": "training.objectives.siam:Siam",
        "swav": "training.objectives.swav:Swav",
        "rafa": "training.objectives.rafa:Rafa",
        "hycd": "training.objectives.hycd:Hycd",
        "backward_compatible": "training.objectives.backward_compatible:BackwardCompatible",
        # Of views, tokens, wrong texts or a teacher.
        "grouping": "training.objectives.grouping:Grouping",
        "instance": "training.objectives.grouping:Instance",
        "self_supervised": "training.objectives.self_supervised:SelfSupervised",
        "intra_modal": "training.objectives.intra_modal:IntraModal",
        "local_mi": "training.objectives.local_mi:LocalMi",
        "image_grounded": "training.objectives.image_grounded:ImageGrounded",
        "text_grounded": "training.objectives.text_grounded:TextGrounded",
        "ema_distill": "training.objectives.ema_distill:EmaDistill",
        "denoise": "training.objectives.denoise:Denoise",
        "pixpro": "training.objectives.pixpro:Pixpro",
        "masked_image": "training.objectives.masked_image:MaskedImage",
        "prototype": "training.objectives.prototype:Prototype",
        "local_global": "training.objectives.local_global:LocalGlobal",
        "masked_prediction": "training.objectives.local_global:MaskedPrediction",
        "captioning": "training.objectives.captioning:Captioning",
    },
    check=derived_from(Objective, key="loss.objective"),
)


class TermConfig(Config):
    """An objective that is added to another one."""

    objective: Annotated[NamedConfig, ChosenBy(OBJECTIVES)] = Field(
        description="what is added, as in loss.objective; null or left out: the objective that the term is called after"
    )
    weight: float = Field(1.0, ge=0, description="what it is multiplied by")
    start: float = Field(0.0, ge=0, le=1, description="share of the run before it counts")
    ramp: float = Field(0.0, ge=0, le=1, description="share of the run, after start, over which its weight grows")


class LossConfig(Config):
    """`loss`: what is learnt from a batch, and whose texts are the negatives."""

    objective: Annotated[NamedConfig, ChosenBy(OBJECTIVES)] = Field(
        ClipConfig(name="clip"),
        description="objective to learn: a name of docs/objectives.md, or the import path of your own; with keys of "
        "its own, a mapping of them and `name`",
    )
    terms: dict[str, TermConfig] = Field(
        {},
        description="what is added to the objective, by a label: other objectives of docs/objectives.md; the label is "
        "the objective's name unless the term has a key objective",
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

    @field_validator("terms", mode="before")
    @classmethod
    def _called_after(cls, terms: object) -> object:
        if not isinstance(terms, Mapping):
            return terms
        for label in terms:
            if not re.fullmatch("[a-z][a-z0-9_]*", str(label)):
                raise RecipeError(
                    "the label of a term must be lower-case letters, digits and _, a letter first",
                    value=label,
                    fix="rename it, and name what it is in its key objective",
                )
        found = {label: {} if term is None else term for label, term in terms.items()}
        return {
            label: {**term, "objective": label} if isinstance(term, Mapping) and term.get("objective") is None else term
            for label, term in found.items()
        }

    @model_validator(mode="after")
    def _deliverable(self) -> LossConfig:
        objective = self.opened()
        check_delivered(objective)
        if self.mode not in objective.modes:
            raise RecipeError(
                f"loss.mode must be one in which loss.objective {objective.config.name} is exact "
                f"({', '.join(objective.modes)})",
                value=self.mode,
                fix=f"set loss.mode to {objective.modes[0]}",
            )
        return self

    def opened(self) -> Objective:
        """The objective with its terms, which `Objective.begin` readies for a run.  Raises RecipeError as `opened`."""
        base = opened(OBJECTIVES.get(self.objective.name), self.objective)
        if not self.terms:
            return base
        found = {
            label: Term(opened(OBJECTIVES.get(one.objective.name), one.objective), one.weight, one.start, one.ramp)
            for label, one in self.terms.items()
        }
        return Composite(base, found)
