"""The recipe section `loss`, and the objectives that it can name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from pairmill.config import Config
from pairmill.errors import RecipeError
from pairmill.registry import ChosenBy, NamedConfig, Registry, derived_from
from training.objectives.clip import ClipConfig
from training.objectives.composite import Composite, Term
from training.objectives.declaration import Objective, opened
from training.objectives.harmonised import HarmoniseConfig, Harmonised
from training.objectives.mask_tokens import MaskTokensConfig, with_token_mask
from training.objectives.projector import Projected, ProjectorConfig

OBJECTIVES: Registry[type[Objective]] = Registry(
    "loss.objective",
    {
        # What is positive, by the kernels of training/losses.
        "clip": "training.objectives.clip:Clip",
        "one_to_k": "training.objectives.one_to_k:OneToK",
        "per_slot": "training.objectives.per_slot:PerSlot",
        "siglip": "training.objectives.siglip:Siglip",
        "lotlip": "training.objectives.lotlip:Lotlip",
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
        "rocket": "training.objectives.rocket:Rocket",
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
    slots: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        None,
        min_length=1,
        description="the text slots that it sees, by their numbers from 0, as if there were no others; null: all",
    )
    projector: ProjectorConfig | None = Field(
        None, description="projector of the term's own, which is never exported; null: it sees the model's embeddings"
    )

    def identity(self) -> dict[str, Any]:
        """As for every configuration, without `slots` and `projector` where they are null."""
        added = ("slots", "projector")
        return {name: value for name, value in super().identity().items() if name not in added or value is not None}

    @field_validator("slots")
    @classmethod
    def _each_once(cls, slots: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if slots is not None and len(set(slots)) < len(slots):
            raise RecipeError(
                "the slots of a term must be named once each", value=list(slots), fix="leave the second one out"
            )
        return slots

    def opened(self, label: str) -> Objective:
        """The objective, through its projector.  Raises RecipeError as `opened`, and as `Projected`."""
        objective = opened(OBJECTIVES.get(self.objective.name), self.objective)
        if self.projector is None:
            return objective
        return Projected(objective, self.projector, f"loss.terms.{label}.projector")


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
    harmonise: HarmoniseConfig | None = Field(
        None,
        description="what to do where the gradients of the objective and of its terms conflict at an embedding; null: "
        "they are added up",
    )
    mask_tokens: MaskTokensConfig | None = Field(
        None,
        description="tokens of texts that say little about their image are left out at random; null: none is",
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

    def identity(self) -> dict[str, Any]:
        """As for every configuration, without `harmonise` and `mask_tokens` where they are null."""
        added = ("harmonise", "mask_tokens")
        return {name: value for name, value in super().identity().items() if name not in added or value is not None}

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
    def _exact(self) -> LossConfig:
        objective = self.opened()
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
        objective = self._added_up()
        return objective if self.mask_tokens is None else with_token_mask(objective, self.mask_tokens)

    def _added_up(self) -> Objective:
        base = opened(OBJECTIVES.get(self.objective.name), self.objective)
        if not self.terms and self.harmonise is None:
            return base
        found = {
            label: Term(one.opened(label), one.weight, one.start, one.ramp, one.slots)
            for label, one in self.terms.items()
        }
        return Composite(base, found) if self.harmonise is None else Harmonised(base, found, self.harmonise)
