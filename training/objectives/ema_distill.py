"""The objective `ema_distill`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from pairmill.registry import NamedConfig
from training.objectives.declaration import Objective

if TYPE_CHECKING:
    from training.gather import Exchange
    from training.losses.loss_inputs import LossOutput
    from training.model import Features, Rows


class EmaDistillConfig(NamedConfig):
    """Its teacher, and what it is asked of."""

    decay: float = Field(0.9996, gt=0, lt=1, description="share of the teacher that a step leaves as it was")
    negatives: bool = Field(True, description="texts that were written to be wrong stay near the teacher's too")


class EmaDistill(Objective):
    """Embeddings stay near those of a slowly moving average of the model.

        L = mean_i [‖x_i - x̄_i‖² + Σ_k ‖t_ik - t̄_ik‖² + Σ_n ‖n_in - n̄_in‖²]

    All are of norm 1; a mean over rows with a text, the same in every mode.  The released code sums over the batch of
    all ranks instead, so its weight, 0.005, is here that times the batch: 1.28 at DeGLA's 256; form `released` sums.
    `loss_by_name` does without negatives where it is not given both models' embeddings of them.  Default: its script.
    """

    Config = EmaDistillConfig
    config: EmaDistillConfig
    paper = "DeGLA, Hu et al. 2025"
    forms = ("paper", "released")
    needs: tuple[str, ...] = ("teacher", "negatives")
    teacher_tensors: tuple[str, ...] = ("neg_text",)
    optional_tensors = ("neg_text", "teacher_neg_text")

    def __init__(self, config: NamedConfig) -> None:
        """See `Objective`."""
        super().__init__(config)
        if not self.config.negatives:
            self.needs, self.teacher_tensors = ("teacher",), ()

    @property
    def teacher_decay(self) -> float:
        """See `Objective`."""
        return self.config.decay

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        """See `Objective`."""
        from training.losses.hard_negatives import negatives_of
        from training.losses.loss_inputs import LossOutput
        from training.losses.present import batch_mean, zeroed
        from training.precision import full_precision

        teacher = self.teacher_of(features)
        mask_BK = rows.text_mask_BK
        there = mask_BK.any(1)
        with full_precision(features.image_BD.device):
            both = (features, teacher)
            image_BD, its_image_BD = (zeroed(of.image_BD, there) for of in both)
            text_BKD, its_text_BKD = (zeroed(of.text_BKD, mask_BK) for of in both)
            losses = (image_BD - its_image_BD).square().sum(1) + (text_BKD - its_text_BKD).square().sum((1, 2))
            if self.config.negatives and "neg_text" in features.asked and "neg_text" in teacher.asked:
                neg_BND, mask_BN = negatives_of(features.asked, mask_BK)
                losses = losses + (neg_BND - zeroed(teacher.asked["neg_text"], mask_BN)).square().sum((1, 2))
            total = losses.sum() * exchange.world if self.form == "released" else batch_mean(losses, there, exchange)
        return LossOutput(total, {self.config.name: total.detach()})
