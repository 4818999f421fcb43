"""The objective `local_mi`."""

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


class LocalMiConfig(NamedConfig):
    """Its teacher."""

    decay: float = Field(0.995, gt=0, lt=1, description="share of the teacher that a step leaves as it was")


class LocalMi(Objective):
    """An embedding is close to each part of what it is of, as the teacher sees the parts, against those of other rows.

        L_img = mean_i mean_a -log(exp(s l_ia·x_i) / (exp(s l_ia·x_i) + Σ_{j≠i} Σ_b exp(s l_jb·x_i)))
        L     = ½ (L_img + L_txt)

    l_ia: the moving average's patches, averaged over cells of ⌊P^(1/4)⌋ patches a side (those that do not fill a cell
    are left out); L_txt is the same of each text and its tokens, and a row's other texts are no negatives.  TCL adds
    it, and `intra_modal`, to a contrast of images with texts at a weight of 1 each.  Deviations from the released
    code: any square grid is pooled (there only one whose side is a perfect square; see
    `training.losses.token_grids.pooled_grid`); negatives are those of all peers, there of the own rank, which is mode
    local.  Default: TCL, pretraining.  Memory O(G·(A + K·L)·D + tile) in every mode but local.
    """

    Config = LocalMiConfig
    config: LocalMiConfig
    paper = "TCL, Yang et al. 2022"
    needs = ("teacher", "tokens")
    teacher_tensors = ("image_tokens", "text_tokens")
    optional_tensors = ("image_tokens", "text_tokens", "teacher_image", "teacher_text")

    @property
    def teacher_decay(self) -> float:
        """See `Objective`."""
        return self.config.decay

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        """See `Objective`."""
        import torch

        from training.losses.loss_inputs import LossOutput
        from training.losses.present import zeroed
        from training.losses.token_grids import check_width, pooled_grid
        from training.precision import full_precision

        teacher = self.teacher_of(features)
        patches_BPD, tokens_BKLD = (teacher.asked[name] for name in self.teacher_tensors)
        for name, tokens in (("image_tokens", patches_BPD), ("text_tokens", tokens_BKLD)):
            check_width(name, tokens, features.image_BD.shape[1])
        mask_BK = rows.text_mask_BK
        there = mask_BK.any(1)
        of_text = mask_BK[..., None].expand(tokens_BKLD.shape[:3])
        if "text_token_mask" in features.asked:
            of_text = of_text & features.asked["text_token_mask"]
        with full_precision(features.image_BD.device):
            cells_BAD = pooled_grid(zeroed(patches_BPD, there))
            of_image = there[:, None, None].expand(-1, 1, cells_BAD.shape[1])
            image_BD, text_BKD = zeroed(features.image_BD, there), zeroed(features.text_BKD, mask_BK)
            parts = {
                "image": self._of(image_BD[:, None], cells_BAD[:, None], of_image, features.scale, rows, exchange),
                "text": self._of(text_BKD, zeroed(tokens_BKLD, of_text), of_text, features.scale, rows, exchange),
            }
            total = torch.stack(list(parts.values())).sum()
        return LossOutput(total, {name: part.detach() for name, part in parts.items()})

    def _of(
        self, whole_BKD: Tensor, parts_BKAD: Tensor, there_BKA: Tensor, scale: Tensor, rows: Rows, exchange: Exchange
    ) -> Tensor:
        """Half the loss of one modality, of K embeddings a row with A parts each."""
        import torch

        from training.losses.negatives import Side, cross_entropy
        from training.losses.present import batch_mean, row_numbers

        slots, count = there_BKA.shape[1:]
        number = row_numbers(len(there_BKA), exchange, there_BKA.device)
        any_BK = there_BKA.any(2)

        def side(vectors: Tensor, valid: Tensor, each: int) -> Side:
            row, group = (ids.repeat_interleave(each) for ids in (number, rows.group_B))
            return Side(vectors.reshape(-1, vectors.shape[-1]), valid.flatten(), row, group)

        queries, columns = side(whole_BKD, any_BK, slots), side(parts_BKAD, there_BKA, slots * count)
        positive = scale * torch.einsum("bkd,bkad->bka", whole_BKD, parts_BKAD).flatten(0, 1)
        losses = cross_entropy(queries, columns.of_peers(exchange), positive, scale, self.setup.tile)
        losses_BKA = torch.where(there_BKA, losses.view(there_BKA.shape), 0.0)
        return batch_mean(losses_BKA.sum(2) / there_BKA.sum(2).clamp(min=1), any_BK, exchange) / 2
