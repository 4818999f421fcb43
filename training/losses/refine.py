"""The two losses of CLIP-Refine (Yamaguchi et al. 2025).

B rows of this rank, K text slots, D embedding, n rows and M columns of a matrix of logits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from training.gather import Exchange
from training.losses.pairs import Batch, Members, gathered, logits_against
from training.losses.present import batch_mean
from training.precision import full_precision


def random_alignment(batch: Batch, text_mask_BK: Tensor, random_BD: Tensor, exchange: Exchange) -> Tensor:
    """mean_i [ mean_d (x_i − r_i)² + mean_k mean_d (t_ik − r_i)² ], this rank's part.  A collective call."""
    text_BKD = torch.stack([one.value for one in batch.texts], dim=1)
    random_BD = random_BD.to(text_BKD.dtype)
    image_B = (batch.image.value - random_BD).square().mean(1)
    text_BK = torch.where(text_mask_BK, (text_BKD - random_BD[:, None]).square().mean(2), 0.0)
    return batch_mean(image_B + text_BK.sum(1) / text_mask_BK.sum(1).clamp(min=1), batch.rows, exchange)


def hybrid_distillation(
    student: Batch,
    teacher: Batch,
    scales: tuple[Tensor, Tensor],
    *,
    temperature: float,
    alpha: float,
    exchange: Exchange,
) -> Tensor:
    """`training.objectives.hycd`, this rank's part of the means over images and over texts.  A collective call.

    scales: of student's and teacher's products.
    """
    both = (student.image, student.all_texts()), (teacher.image, teacher.all_texts())
    ways = []
    for one, other in ((0, 1), (1, 0)):
        rows = both[0][one]
        with full_precision(rows.value.device):
            columns = gathered(both[0][other], exchange)
            mine = logits_against(rows, columns, scales[0] / temperature)
            with torch.no_grad():
                taught = logits_against(
                    both[1][one], gathered(both[1][other], exchange), scales[1] / temperature
                ).softmax(1)
                target = alpha * _own_share(rows, columns) + (1 - alpha) * taught
        divergence = torch.xlogy(target, target) - target * mine.log_softmax(1).masked_fill(mine.isinf(), 0.0)
        ways.append(batch_mean(divergence.sum(1), rows.valid, exchange))
    return temperature**2 * (ways[0] + ways[1]) / 2


def _own_share(rows: Members, columns: Members) -> Tensor:
    """1 in all, evenly among the columns of a row's own row, [n, M]."""
    own = ((rows.row[:, None] == columns.row) & columns.valid).to(rows.value.dtype)
    return own / own.sum(1, keepdim=True).clamp(min=1)
