"""The objective `momentum`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field

from pairmill.registry import NamedConfig
from training.objectives.contrastive import inputs_of, present
from training.objectives.declaration import Kept, Objective, Setup

if TYPE_CHECKING:
    from torch import Tensor

    from training.gather import Exchange
    from training.losses.loss_inputs import LossOutput
    from training.losses.queued import Side
    from training.model import Features, Rows

#: Twice a label, or twice and one, within int64.
_HALF = 2**62 - 1


class MomentumConfig(NamedConfig):
    """Its queue, its teacher, and how much of the target is the teacher's."""

    queue: int = Field(
        65536,
        ge=0,
        description="rows of earlier steps whose embeddings are candidates too; 65536: ALBEF's; takes 4·(1 + text "
        "slots)·width bytes each, in every checkpoint too",
    )
    alpha: float = Field(
        0.4, ge=0, le=1, description="share of the target that is the teacher's, reached after one epoch; 0.4: ALBEF's"
    )
    decay: float = Field(0.995, gt=0, lt=1, description="share of the teacher that a step keeps; 0.995: ALBEF's")


class Momentum(Objective):
    """Momentum distillation: candidates are a moving average's embeddings, and its softmax is part of the target.

        L = ½ [mean_i -Σ_c q_ic log softmax_c(s x_i·t'_c)  +  mean over texts of -Σ_j q_ik,j log softmax_j(s t_ik·x'_j)]
        q_ic = (1 - α) m_c/n_i [c is a text of i] + α softmax_c(s x'_i·t'_c),  and alike for texts

    t', x': the teacher's, of the batch and of earlier steps (the queues).  α: `alpha`, times the share of the first
    epoch that has passed; an epoch of one step has no ramp.  Another row of the same group, and the same row in an
    earlier step, are no candidates; ALBEF does not look for them.  The mode says whose batches are candidates: ALBEF
    takes its own rank's (`local`), with the queue of all ranks.
    """

    Config = MomentumConfig
    config: MomentumConfig
    paper = "ALBEF, Li et al. 2021"
    needs = ("teacher",)
    keeps = (
        Kept(
            "queue_image",
            "replicated",
            "the teacher's images of earlier steps; zeros where there is none",
        ),
        Kept("queue_text", "replicated", "their texts, all slots"),
        Kept("queue_label", "replicated", "what row and group they are of"),
        Kept("queue_count", "replicated", "how many rows have ever come in; the next one replaces the oldest"),
    )

    @property
    def teacher_decay(self) -> float:
        """See `Objective`."""
        return self.config.decay

    def start(self, setup: Setup) -> Mapping[str, Tensor]:
        """See `Objective`."""
        import torch

        size = self.config.queue
        return {
            "queue_image": torch.zeros(size, setup.width, device=setup.device),
            "queue_text": torch.zeros(size, setup.slots, setup.width, device=setup.device),
            "queue_label": torch.full((size,), -1, device=setup.device),
            "queue_count": torch.zeros((), dtype=torch.int64, device=setup.device),
        }

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        """See `Objective`."""
        import torch

        from training.losses.loss_inputs import LossOutput
        from training.losses.queued import Queue, momentum_loss
        from training.losses.tiles import wide

        images, texts = self._sides(features, rows, exchange)
        mask_BK, scale = rows.text_mask_BK, wide(features.scale)
        slots = mask_BK.shape[1]
        # What is at the own pairs: a [B, K] product for each direction.
        taught_BKD, text_BKD = (wide(t).view(*mask_BK.shape, -1) for t in (texts.teacher_ND, texts.student_ND))
        image_own = torch.einsum("bd,bkd->bk", wide(images.student_ND), taught_BKD)
        text_own = torch.einsum("bd,bkd->bk", wide(images.teacher_ND), text_BKD)
        count = mask_BK.sum(1).clamp(min=1)
        alpha, filled = self.alpha, self._filled()
        queue, label = self.state["queue_text"][:filled], self.state["queue_label"][:filled]
        of_texts = Queue(queue.flatten(0, 1), label.repeat_interleave(slots))
        of_images = Queue(self.state["queue_image"][:filled], label)
        how = (scale, alpha, exchange, self.setup.tile)
        total = 0.5 * momentum_loss(images, texts, scale * image_own.sum(1) / count, of_texts, *how)
        total = total + 0.5 * momentum_loss(texts, images, scale * text_own.flatten(), of_images, *how)
        return LossOutput(total, {self.config.name: total.detach()})

    @property
    def alpha(self) -> float:
        """Share of the target that is the teacher's at this step."""
        epoch = self.when.steps_per_epoch
        return self.config.alpha * (min(1.0, self.when.step / epoch) if epoch > 1 else 1.0)

    def after_step(self, features: Features, rows: Rows, exchange: Exchange) -> None:
        """Put this step's rows in the place of the oldest."""
        from training.losses.memory import taken_in

        teacher = present(self.teacher_of(features), rows.text_mask_BK)
        there = exchange.everyone(rows.text_mask_BK.any(1))
        new = {
            "queue_image": exchange.everyone(teacher.image_BD)[there],
            "queue_text": exchange.everyone(teacher.text_BKD)[there],
            "queue_label": exchange.everyone(_label(rows))[there],
        }
        self.state = taken_in(self.state, new, "queue_count")

    def take_state(self, given: Mapping[str, Tensor]) -> None:
        """See `Objective`; queues may be of any length, as `given_queues` says."""
        from training.objectives.given_queues import queues_from

        self.state = queues_from(self.state, given, ("queue_label",))

    def _filled(self) -> int:
        """How many places of the queues may hold something: all, of queues that `loss_by_name` is given alone."""
        size, count = len(self.state["queue_image"]), int(self.state["queue_count"])
        return min(count, size) if count else size

    def _sides(self, features: Features, rows: Rows, exchange: Exchange) -> tuple[Side, Side]:
        from training.losses.compose import without_what_is_missing
        from training.losses.present import row_numbers
        from training.losses.queued import Side

        student, mask_BK = without_what_is_missing(inputs_of(features, rows)), rows.text_mask_BK
        teacher = present(self.teacher_of(features), mask_BK)
        number, label = row_numbers(len(mask_BK), exchange, mask_BK.device), _label(rows)
        slots = mask_BK.shape[1]
        return (
            Side(student.image_BD, teacher.image_BD.detach(), mask_BK.any(1), number, label),
            Side(
                student.text_BKD.flatten(0, 1),
                teacher.text_BKD.detach().flatten(0, 1),
                mask_BK.flatten(),
                number.repeat_interleave(slots),
                label.repeat_interleave(slots),
            ),
        )


def _label(rows: Rows) -> Tensor:
    """Which rows are the same, or of one group, in one number [B]."""
    import torch

    same = (rows.sample_id_B & _HALF) * 2
    return torch.where(rows.group_B >= 0, (rows.group_B & _HALF) * 2 + 1, same)
