"""The objectives `grouping` and `instance`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from pairmill.registry import NamedConfig
from training.objectives.declaration import Objective, Setup

if TYPE_CHECKING:
    from torch import Tensor, nn

    from training.gather import Exchange
    from training.losses.loss_inputs import LossOutput
    from training.model import Features, Rows


class GroupingConfig(NamedConfig):
    """How patches are weighted for a text."""

    normalise: Literal["minmax", "softmax"] = Field(
        "minmax", description="what makes weights of the cosines of a text with the patches of its image"
    )
    threshold: float = Field(
        0.0, lt=1, description="weights below it are 0; negative: below the inverse of the number of patches"
    )


class _Grouped(Objective):
    """What both share: patches gathered for each text, and the local scale."""

    Config = GroupingConfig
    config: GroupingConfig
    paper = "DreamLIP, Zheng et al. 2024"
    needs = ("tokens",)
    optional_tensors = ("text_tokens",)
    parameters = ("local_scale",)

    def heads(self, setup: Setup) -> nn.Module:
        """See `Objective`."""
        from training.losses.patch_grouping import LocalScale

        return LocalScale()

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        """See `Objective`."""
        from training.losses.loss_inputs import LossOutput
        from training.losses.patch_grouping import grouped_patches
        from training.losses.present import zeroed
        from training.losses.tiles import wide
        from training.losses.token_grids import check_width
        from training.precision import full_precision

        mask_BK, patches_BPD = rows.text_mask_BK, features.asked["image_tokens"]
        check_width("image_tokens", patches_BPD, features.text_BKD.shape[2])
        text_BKD = features.text_BKD
        if self.form == "released":
            # The released view of [K, B, D] as [B, K, D], without the transpose.
            text_BKD, mask_BK = (each.transpose(0, 1).reshape(each.shape) for each in (text_BKD, mask_BK))
        mask_BK = mask_BK & rows.text_mask_BK.any(1, keepdim=True)
        with full_precision(patches_BPD.device):
            text_BKD, patches_BPD = zeroed(text_BKD, mask_BK), zeroed(patches_BPD, rows.text_mask_BK.any(1))
            group_BKD = grouped_patches(patches_BPD, text_BKD, self.config.normalise, self.config.threshold)
            scale = wide(features.own.shared["scale"])
            total = self.contrasted(group_BKD, text_BKD, mask_BK, scale, rows, exchange)
        return LossOutput(total, {self.config.name: total.detach()})

    def contrasted(
        self, group_BKD: Tensor, text_BKD: Tensor, mask_BK: Tensor, scale: Tensor, rows: Rows, exchange: Exchange
    ) -> Tensor:
        """The loss of the patches gathered for each text with the texts."""
        raise NotImplementedError


class Grouping(_Grouped):
    """Each text is close to the patches of its image that are like it, told from all texts of all images (L_g).

        a_ikp = t_ik·v_ip;   â = (a - min_p a) / (max_p a - min_p a), 0 where below the threshold
        g_ik  = norm(Σ_p â_ikp v_ip / Σ_p â_ikp)
        L     = ½ [CE(s_l G Tᵀ) + CE(s_l T Gᵀ)]   (over the texts of all slots; mean over texts)

    Other texts of the same image are negatives too.  s_l is learnt, the head parameter `local_scale` (its logarithm),
    from 1/0.07; the released model has none and would fail.  The released code lays out texts by slot and reads them by
    row, which compares images with the texts of others; form `released` does so too.  DreamLIP adds it to `per_slot` at
    a weight of 1.  Defaults: its parameters; its loss class has a threshold of 0.1.  Memory O(B·K·P + G·K·D + tile),
    O(B·K·P + B·K·D + tile) in mode ring.
    """

    forms = ("paper", "released")

    def contrasted(
        self, group_BKD: Tensor, text_BKD: Tensor, mask_BK: Tensor, scale: Tensor, rows: Rows, exchange: Exchange
    ) -> Tensor:
        """See `_Grouped`."""
        from training.gather import Columns
        from training.losses.present import batch_mean, row_numbers
        from training.losses.softmax import softmax_value
        from training.losses.tiles import Queries

        count = exchange.total(mask_BK.sum().double()).clamp(min=1)
        weight = mask_BK.flatten().to(text_BKD.dtype) / (2 * count.to(text_BKD.dtype))
        number, group = (
            each.repeat_interleave(mask_BK.shape[1])
            for each in (row_numbers(len(mask_BK), exchange, mask_BK.device), rows.group_B)
        )
        queries = Queries(group_BKD.flatten(0, 1), mask_BK.flatten(), weight, number, group)
        columns = Columns(text_BKD.flatten(0, 1), mask_BK.flatten(), weight, number, group)
        value = softmax_value(queries, columns, scale, exchange=exchange, tile=self.setup.tile)
        return value - batch_mean(scale * (group_BKD * text_BKD).sum(-1), mask_BK, exchange)


class Instance(_Grouped):
    """As `grouping`, and a text is told from the other texts of its image only.

        L = mean_ik ½ [-log softmax_l(s_l g_ik·t_il)_k - log softmax_l(s_l t_ik·g_il)_k]

    DreamLIP's code defines it, in one direction, and never calls it, so it has no released form; SPARC (Bica et al.
    2024) has both directions.  The same in every mode.
    """

    def contrasted(
        self, group_BKD: Tensor, text_BKD: Tensor, mask_BK: Tensor, scale: Tensor, rows: Rows, exchange: Exchange
    ) -> Tensor:
        """See `_Grouped`."""
        import torch

        from training.losses.present import batch_mean

        logits_BKK = scale * torch.einsum("bkd,bld->bkl", group_BKD, text_BKD)
        # A text that is missing has its own logit alone: no row of logits is without any.
        alone = torch.eye(mask_BK.shape[1], dtype=torch.bool, device=mask_BK.device)
        both = mask_BK[:, :, None] & mask_BK[:, None, :]
        logits_BKK = logits_BKK.masked_fill(~both & ~alone, -torch.inf)
        at_own = (logits_BKK.log_softmax(2) + logits_BKK.log_softmax(1)).diagonal(dim1=1, dim2=2)
        return batch_mean(-at_own / 2, mask_BK, exchange)
