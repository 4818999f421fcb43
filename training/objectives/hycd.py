"""The objective `hycd`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from pairmill.registry import NamedConfig
from training.objectives.declaration import Objective

if TYPE_CHECKING:
    from training.gather import Exchange
    from training.losses.loss_inputs import LossOutput
    from training.losses.pairs import Batch
    from training.model import Features, Rows


class HycdConfig(NamedConfig):
    """What is compared, how softly, and how far the truth counts."""

    features: Literal["raw", "unit"] = Field(
        "raw",
        description="raw: products of embeddings before normalisation (the paper); unit: cosines times each model's "
        "own scale, for models whose raw length means nothing (SigLIP)",
    )
    temperature: float = Field(1.0, gt=0, description="T (1: the paper)")
    alpha: float = Field(0.5, ge=0, le=1, description="α, share of the true pairs in the target (0.5: the paper)")


class Hycd(Objective):
    """The model keeps what a frozen copy of itself knows of a batch, blended with which pairs are true.

        L = T²/2 Σ_ways mean_i KL( α y_i + (1 − α) softmax(z'_i/T) ‖ softmax(z_i/T) )

    z are the products of image and text embeddings, z' those of the frozen model; the ways are each image over all
    texts, where y_i is spread over its own, and each text over all images.  Rows of one group do not count for each
    other.  A post-training term of CLIP-Refine: see `rafa`.  The paper compares within a worker; here the whole batch
    counts.  It holds the logits of both models, O(B·G·K) memory.
    """

    paper = "CLIP-Refine, Yamaguchi et al. 2025"
    needs: tuple[str, ...] = ("frozen_teacher", "raw")
    teacher_tensors: tuple[str, ...] = ("raw_image", "raw_text")
    optional_tensors: tuple[str, ...] = ("teacher_image", "teacher_text")
    Config = HycdConfig
    config: HycdConfig

    def __init__(self, config: HycdConfig) -> None:
        """See `Objective`."""
        super().__init__(config)
        if config.features == "unit":
            self.needs, self.teacher_tensors, self.optional_tensors = ("frozen_teacher",), (), ()

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        """See `Objective`."""
        from training.losses.loss_inputs import LossOutput
        from training.losses.refine import hybrid_distillation
        from training.losses.tiles import wide

        batches, scales = [], []
        for model in (features, self.teacher_of(features, frozen=True)):
            batches.append(self._compared(model, rows, exchange))
            scales.append(wide(model.scale if self.config.features == "unit" else model.image_BD.new_ones(())))
        total = hybrid_distillation(
            batches[0],
            batches[1],
            (scales[0], scales[1]),
            temperature=self.config.temperature,
            alpha=self.config.alpha,
            exchange=exchange,
        )
        return LossOutput(total, {self.config.name: total.detach()})

    def _compared(self, model: Features, rows: Rows, exchange: Exchange) -> Batch:
        from training.losses.pairs import members

        if self.config.features == "raw":
            return members(model.asked["raw_image"], model.asked["raw_text"], rows, exchange)
        return members(model.image_BD, model.text_BKD, rows, exchange)
