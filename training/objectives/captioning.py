"""The objective `captioning`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pairmill.errors import RecipeError
from pairmill.registry import NamedConfig
from training.objectives.declaration import Objective

if TYPE_CHECKING:
    from torch import Tensor

    from training.gather import Exchange
    from training.losses.loss_inputs import LossOutput
    from training.model import Features, Rows


class CaptioningConfig(NamedConfig):
    """It has no keys of its own."""


class Captioning(Objective):
    """Each token of a text is predicted from those before it and the image, by a CoCa model's decoder.

        L = -mean over tokens of log softmax_v(z_ikl)[y_ikl]

    z: the decoder's logits over the vocabulary at place l of text k of image i; y: the token there.  Every token but a
    text's first counts, its end too; padding does not.  The mean is over the tokens of all texts of all ranks, where
    open_clip takes the mean over ranks of each rank's own.  Its CoCa takes every token of the id of padding for padding
    (0, an exclamation mark before another sign), and so does ours.

    A term, added to `clip` with weight 2 (the paper, section 4.1, and open_clip's recipe `coca`).  The loop gives
    `caption_losses`, computed as a part of the model and in tiles over the vocabulary: logits never exist as a whole.
    `loss_by_name` takes `caption_logits` in their place.  The same in every mode.
    """

    Config = CaptioningConfig
    paper = "CoCa, Yu et al. 2022"
    needs = ("captions",)
    optional_tensors = ("caption_losses", "caption_logits")

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        """See `Objective`.  Raises RecipeError without one of `caption_losses` and `caption_logits`."""
        import torch

        from training.losses.loss_inputs import LossOutput
        from training.losses.present import batch_mean
        from training.losses.tiles import wide
        from training.precision import full_precision

        label_BKL = features.asked["caption_labels"]
        there_BKL = (label_BKL >= 0) & rows.text_mask_BK[..., None]
        with full_precision(label_BKL.device):
            if "caption_losses" in features.asked:
                losses_BKL = wide(features.asked["caption_losses"])
            elif "caption_logits" in features.asked:
                losses_BKL = _losses(features.asked["caption_logits"], label_BKL, there_BKL)
            else:
                raise RecipeError(
                    "loss.objective captioning must be given the tensors caption_losses or caption_logits",
                    value="neither",
                    fix="give caption_logits [B, K, L, V]",
                )
            # The masks come before the arithmetic: what is not there may be NaN.
            total = batch_mean(torch.where(there_BKL, losses_BKL, 0.0), there_BKL, exchange)
        return LossOutput(total, {self.config.name: total.detach()})


def _losses(logits_BKLV: Tensor, label_BKL: Tensor, there_BKL: Tensor) -> Tensor:
    import torch.nn.functional as F  # noqa: N812  torch's own name for it

    from training.losses.tiles import wide

    losses = F.cross_entropy(wide(logits_BKLV[there_BKL]), label_BKL[there_BKL], reduction="none")
    return losses.new_zeros(label_BKL.shape).masked_scatter(there_BKL, losses)
