"""The objective `mixup`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from pairmill.registry import NamedConfig
from training.objectives.declaration import Objective

if TYPE_CHECKING:
    from torch import Tensor

    from training.gather import Exchange
    from training.losses.loss_inputs import LossOutput
    from training.losses.pairs import Batch
    from training.model import Features, Rows


class MixupConfig(NamedConfig):
    """What is mixed, how long, and both temperatures, which are not learnt."""

    until: float = Field(0.33, ge=0, le=1, description="share of the run with mixing; then soft CLIP (0.33: the paper)")
    beta: float = Field(0.15, gt=0, description="λ ~ Beta(beta, beta) (0.15: the paper)")
    chance: float = Field(0.5, ge=0, le=1, description="probability that a row is mixed (0.5: the paper)")
    temperature: float = Field(0.1, gt=0, description="of the logits of mixed embeddings (0.1: released)")
    soft_temperature: float = Field(0.125, gt=0, description="of soft CLIP (0.125: released)")


class Mixup(Objective):
    """Mixed embeddings are near to both of their partners; later, soft CLIP (M3CoL).

        ṽ_i = normalised λ_i v_i + (1 − λ_i) v_π(i)
        L_mix(v, w) = ½ [ −mean_i (λ_i log p_ii + (1 − λ_i) log p_iπ(i)) − the same with softmax over i ]
        p_ij = softmax_j(ṽ_i·w_j / τ)
        L = L_mix(image, text) + L_mix(text, image) for the first third of the run, then
        L_soft = ½ Σ_{u: images, texts} mean_i [ CE(x_i Tᵀ/τ', softmax(u_i Uᵀ/τ')) + CE(t_i Xᵀ/τ', softmax(u_i Uᵀ/τ')) ]

    x, X are images, t, T texts, of slot 0: rows without one take no part.  Each modality has its own λ and π.  They are
    drawn by seed and step for the whole batch (the paper: within a worker), by the rows' ids, and so are the same on
    any number of workers.  Rows of one group are neither mixed nor negatives.  Both logits and targets of soft CLIP
    learn.  A term, added to `clip` with weight 0.1.  All embeddings of the batch are in memory at once, in mode ring
    too, and soft CLIP holds its logits, O(B·G).

    The released code differs: it mixes in place, so that w is mixed too, with its own λ and π; and where π(i) = i its
    target is 1 − λ_i instead of 1, 0 if the row is not mixed.  That is the form `released`.  It mixes embeddings before
    they are normalised; this does so after.
    """

    paper = "M3CoL, Kumar et al. 2024"
    forms = ("paper", "released")
    Config = MixupConfig
    config: MixupConfig

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        """See `Objective`."""
        from training.losses.loss_inputs import LossOutput
        from training.losses.mixing import soft_clip
        from training.losses.pairs import members

        first = rows._replace(text_mask_BK=rows.text_mask_BK[:, :1])
        batch = members(features.image_BD, features.text_BKD[:, :1], first, exchange)
        if self.when.step < self.config.until * self.when.steps:
            total = self._mixed(batch, rows, exchange)
        else:
            scale = batch.image.value.new_tensor(1 / self.config.soft_temperature)
            total = soft_clip(batch.image, batch.texts[0], scale, exchange)
        return LossOutput(total, {self.config.name: total.detach()})

    def _mixed(self, batch: Batch, rows: Rows, exchange: Exchange) -> Tensor:
        from training.losses.mixing import draw_mix, mixed, mixed_loss
        from training.losses.pairs import gathered

        plain = (batch.image, batch.texts[0])
        everyone = [gathered(one, exchange) for one in plain]
        size, valid = len(batch.rows), everyone[0].valid
        place = slice(exchange.place * size, (exchange.place + 1) * size)
        ids = exchange.contrasted(rows.sample_id_B)
        mixes = [
            draw_mix(
                ids,
                everyone[0].family,
                valid,
                self.config.beta,
                self.config.chance,
                [self.setup.seed, self.when.step, which],
            )
            for which in range(2)
        ]
        melted = [mixed(plain[which], everyone[which], mixes[which], place) for which in range(2)]
        released = self.form == "released"
        fixed = melted if released else list(plain)
        columns = [gathered(one, exchange) for one in melted] if released else everyone
        scale = batch.image.value.new_tensor(1 / self.config.temperature)
        losses = [
            mixed_loss(
                melted[which],
                columns[1 - which],
                fixed[1 - which],
                mixes[which],
                place,
                scale,
                overwritten=released,
                exchange=exchange,
                tile=self.setup.tile,
            )
            for which in range(2)
        ]
        return losses[0] + losses[1]
