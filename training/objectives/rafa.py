"""The objective `rafa`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from pairmill.registry import NamedConfig
from training.objectives.declaration import Objective

if TYPE_CHECKING:
    from training.gather import Exchange
    from training.losses.loss_inputs import LossOutput
    from training.model import Features, Rows


class RafaConfig(NamedConfig):
    """What is compared with the random vectors, and for how long."""

    features: Literal["raw", "unit"] = Field(
        "raw",
        description="raw: embeddings before normalisation (the paper); unit: normalised ones, stretched to length √D, "
        "for models whose raw length means nothing (SigLIP)",
    )
    decay: bool = Field(
        False, description="let the loss fade to 0 over the run (released `regularization_decay`, off by default)"
    )


class Rafa(Objective):
    """Image and texts of a row approach the same random vector: the gap between the modalities closes.

        L = mean_i [ ‖x_i − r_i‖² / D + mean_k ‖t_ik − r_i‖² / D ],   r_i ~ N(0, I_D), drawn anew in each step

    A post-training term of CLIP-Refine with `hycd`, both of weight 1 and without `clip`: one epoch, AdamW, learning
    rate 1e-6, batches of 512.  r_i depends on the seed, the step and the row's id alone, so that it is the same on any
    number of workers.
    """

    paper = "CLIP-Refine, Yamaguchi et al. 2025"
    needs: tuple[str, ...] = ("raw",)
    Config = RafaConfig
    config: RafaConfig

    def __init__(self, config: RafaConfig) -> None:
        """See `Objective`."""
        super().__init__(config)
        self.needs = ("raw",) if config.features == "raw" else ()

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        """See `Objective`."""
        from training.losses.drawn import normals
        from training.losses.loss_inputs import LossOutput
        from training.losses.pairs import members
        from training.losses.refine import random_alignment

        width = features.image_BD.shape[1]
        if self.config.features == "raw":
            image_BD, text_BKD = features.asked["raw_image"], features.asked["raw_text"]
        else:
            image_BD, text_BKD = width**0.5 * features.image_BD, width**0.5 * features.text_BKD
        random_BD = normals(self.setup.seed, self.when.step, rows.sample_id_B, width)
        batch = members(image_BD, text_BKD, rows, exchange)
        total = random_alignment(batch, rows.text_mask_BK, random_BD, exchange)
        if self.config.decay:
            total = total * (1 - self.when.step / self.when.steps)
        return LossOutput(total, {self.config.name: total.detach()})
