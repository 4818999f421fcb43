"""The objective `text_grounded`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from pairmill.registry import NamedConfig
from training.objectives.declaration import Objective

if TYPE_CHECKING:
    from torch import Tensor

    from training.gather import Exchange
    from training.losses.loss_inputs import LossOutput
    from training.model import Features, Rows


class TextGroundedConfig(NamedConfig):
    """Its scale, and its teacher."""

    scale: float = Field(10.0, gt=0, description="what cosines are multiplied by; it does not learn")
    decay: float = Field(0.9996, gt=0, lt=1, description="share of the teacher that a step leaves as it was")


class TextGrounded(Objective):
    """A text is closer to the teacher's embedding of it than to the wrong texts written for its image (TGC).

        L = mean_ik CE(10 t_ik·[t̄_ik, n_i1 … n_iN], 0)

    t̄: the moving average's embedding of the same text; the negatives are the student's.  A mean over texts whose row
    has a negative, the same in every mode.  DeGLA adds it to `with_negatives` at a weight of 0.1.  The released code
    lays out negatives by row and masks them as if by number, so it compares a text i with the negatives i, i + G, i +
    2G, … of the G·N in the batch, which are mostly those of other rows; form `released` does so too.  Defaults: its
    script.
    """

    Config = TextGroundedConfig
    config: TextGroundedConfig
    paper = "DeGLA, Hu et al. 2025"
    forms = ("paper", "released")
    needs = ("teacher", "negatives")
    optional_tensors = ("teacher_image",)

    @property
    def teacher_decay(self) -> float:
        """See `Objective`."""
        return self.config.decay

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        """See `Objective`."""
        import torch

        from training.losses.hard_negatives import among_candidates, negatives_of
        from training.losses.loss_inputs import LossOutput
        from training.losses.present import batch_mean, zeroed
        from training.precision import full_precision

        teacher = self.teacher_of(features)
        mask_BK, scale = rows.text_mask_BK, self.config.scale
        with full_precision(features.image_BD.device):
            text_BKD, taught_BKD = (zeroed(of.text_BKD, mask_BK) for of in (features, teacher))
            neg_BND, neg_mask_BN = negatives_of(features.asked, mask_BK)
            if self.form == "released":
                neg_BND, neg_mask_BN = (_as_released(values, exchange) for values in (neg_BND, neg_mask_BN))
            positive_BK = scale * (text_BKD * taught_BKD).sum(-1)
            negative_BKN = scale * torch.einsum("bkd,bnd->bkn", text_BKD, neg_BND)
            losses = among_candidates(positive_BK, negative_BKN, neg_mask_BN[:, None])
            total = batch_mean(losses, mask_BK & neg_mask_BN.any(1, keepdim=True), exchange)
        return LossOutput(total, {self.config.name: total.detach()})


def _as_released(values_BN: Tensor, exchange: Exchange) -> Tensor:
    """What the released mask gives row i of G: of the G·N in order of rows, those at i, i + G, i + 2G, …"""
    rows, count = values_BN.shape[:2]
    all_GN = exchange.contrasted(values_BN)
    swapped = all_GN.reshape(count, len(all_GN), *values_BN.shape[2:]).transpose(0, 1)
    return swapped[exchange.place * rows :][:rows]
