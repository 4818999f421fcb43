"""The objective `intra_modal`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field

from pairmill.registry import NamedConfig
from training.objectives.declaration import Kept, Objective, Setup

if TYPE_CHECKING:
    from torch import Tensor

    from training.gather import Exchange
    from training.losses.loss_inputs import LossOutput
    from training.model import Features, Rows

_QUEUES = ("queue_image", "queue_text")


class IntraModalConfig(NamedConfig):
    """The queues, and what a row is close to."""

    queue_size: int = Field(65536, ge=0, description="embeddings of earlier steps that are negatives too; 0: none")
    decay: float = Field(0.995, gt=0, lt=1, description="share of the teacher that a step leaves as it was")
    other_view: bool = Field(
        True, description="an image is close to the teacher's first further view of it; false: to the same pixels"
    )
    other_text: bool = Field(
        False, description="a text is close to the next text of its row, where there is one; false: to the same text"
    )


class IntraModal(Objective):
    """An image is close to the teacher's embedding of it, a text to the teacher's of it, against rows and queues (IMC).

        L = ½ [CE(s X [X̄; Q_I]ᵀ) + CE(s T [T̄; Q_T]ᵀ)]   (hard targets, mean over rows)

    X̄, T̄: the moving average's embeddings of the batch; Q: those of earlier steps.  T: a row's first text.  TCL adds
    it, and `local_mi`, to a contrast of images with texts, at a weight of 1 each.  Deviations from the released code:
    the batch of all peers is in the softmax, not the own rank's alone; a row's own earlier embeddings in a queue are no
    negatives of it.  Defaults: TCL, pretraining.
    Memory O(Q·D + G·D + tile) in every mode.
    """

    Config = IntraModalConfig
    config: IntraModalConfig
    paper = "TCL, Yang et al. 2022"
    needs: tuple[str, ...] = ("teacher", "views")
    teacher_tensors: tuple[str, ...] = ("image_views",)
    optional_tensors: tuple[str, ...] = ("image_views", "text_views", "teacher_image")
    keeps = (
        Kept("queue_image", "replicated", "the teacher's image embeddings of earlier steps, [Q, D]"),
        Kept("queue_text", "replicated", "those of texts"),
        Kept("queue_id", "replicated", "sample ids of the rows in the queues, [Q]; -1: none"),
        Kept("queue_group", "replicated", "their groups"),
        Kept("queued", "replicated", "how many rows were ever put in"),
    )

    def __init__(self, config: NamedConfig) -> None:
        """See `Objective`."""
        super().__init__(config)
        if not self.config.other_view:
            self.needs, self.teacher_tensors, self.optional_tensors = ("teacher",), (), ()

    @property
    def teacher_decay(self) -> float:
        """See `Objective`."""
        return self.config.decay

    def start(self, setup: Setup) -> Mapping[str, Tensor]:
        """See `Objective`."""
        from training.losses.memory import empty

        return empty(_QUEUES, self.config.queue_size, setup.width, setup.device)

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        """See `Objective`."""
        import torch

        from training.losses.loss_inputs import LossOutput
        from training.losses.memory import held
        from training.losses.negatives import Side, cross_entropy
        from training.losses.present import batch_mean, first_text, zeroed
        from training.precision import full_precision

        mask_BK = rows.text_mask_BK
        there = mask_BK.any(1)
        with full_precision(features.image_BD.device):
            own = (zeroed(features.image_BD, there), first_text(features.text_BKD, mask_BK))
            parts = {}
            for name, own_BD, taught_BD in zip(_QUEUES, own, self._taught(features, rows), strict=True):
                queries = Side(own_BD, there, rows.sample_id_B, rows.group_B)
                columns = queries._replace(vector=taught_BD).of_peers(exchange).joined(held(self.state, name))
                positive = features.scale * (own_BD * taught_BD).sum(1)
                losses = cross_entropy(queries, columns, positive, features.scale, self.setup.tile)
                parts[name.removeprefix("queue_")] = batch_mean(losses, there, exchange) / 2
            total = torch.stack(list(parts.values())).sum()
        return LossOutput(total, {name: part.detach() for name, part in parts.items()})

    def after_step(self, features: Features, rows: Rows, exchange: Exchange) -> None:
        """See `Objective`."""
        from training.losses.memory import taken_in

        there = exchange.everyone(rows.text_mask_BK.any(1))
        values = (*self._taught(features, rows), rows.sample_id_B, rows.group_B)
        names = (*_QUEUES, "queue_id", "queue_group")
        new = {name: exchange.everyone(of_rows)[there] for name, of_rows in zip(names, values, strict=True)}
        self.state = taken_in(self.state, new, "queued")

    def take_state(self, given: Mapping[str, Tensor]) -> None:
        """See `Objective`; queues may be of any length, as `given_queues` says."""
        from training.objectives.given_queues import queues_from

        self.state = queues_from(self.state, given, ("queue_id", "queue_group"))

    def _taught(self, features: Features, rows: Rows) -> tuple[Tensor, Tensor]:
        """What images and texts are close to, [B, D] each."""
        from training.losses.present import first_text, zeroed

        taught, mask_BK = features.teacher, rows.text_mask_BK
        if taught is None:
            raise RuntimeError("this objective must have a teacher")
        image_BD = taught.asked["image_views"][:, 0] if self.config.other_view else taught.image_BD
        if self.config.other_text:
            # A text that has no other one after it is close to itself.
            later = mask_BK & (mask_BK.cumsum(1) > 1)
            mask_BK = later.where(later.any(1, keepdim=True), mask_BK)
        return zeroed(image_BD, mask_BK.any(1)), first_text(taught.text_BKD, mask_BK)
