"""CLIP's loss within groups of the batch's rows: what each of several groups of workers computes (`loss.mode: group`).

W workers give the gradients of one process on the whole batch, so one process can stand for the groups of M2-Encoder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from pairmill.registry import NamedConfig
from training.objectives.clip import Clip, ClipConfig
from training.objectives.declaration import Objective

if TYPE_CHECKING:
    from training.gather import Exchange
    from training.losses.loss_inputs import LossOutput
    from training.model import Features, Rows


class InGroupsConfig(NamedConfig):
    groups: int = Field(4, ge=1, description="groups of the batch's rows")


class InGroups(Objective):
    """The mean of CLIP's loss over groups of rows, none of which sees another's."""

    paper = "M2-Encoder, Guo et al. 2024"
    modes = ("gather", "local")
    Config = InGroupsConfig
    config: InGroupsConfig

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        import torch

        from training.losses.loss_inputs import LossOutput

        clip, size = Clip(ClipConfig(name="clip")), len(features.image_BD) // self.config.groups
        clip.setup, clip.when, totals = self.setup, self.when, []
        for at in range(0, len(features.image_BD), size):
            here = slice(at, at + size)
            part = features._replace(image_BD=features.image_BD[here], text_BKD=features.text_BKD[here])
            totals.append(clip(part, rows.part(here), exchange).total)
        total = torch.stack(totals).mean()
        return LossOutput(total, {"clip": total.detach()})
