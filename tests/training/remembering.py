"""An objective of a user's own: a queue, an averaged teacher, a projection and a scale that learn."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from pydantic import Field
from torch import Tensor, nn

from pairmill.registry import NamedConfig
from training.gather import Exchange
from training.losses.loss_inputs import LossOutput
from training.model import Features, Own, Rows
from training.objectives.declaration import Kept, Objective, Setup


class RememberConfig(NamedConfig):
    size: int = Field(24, ge=1, description="text embeddings of earlier steps that are kept")
    width: int = Field(8, ge=1, description="numbers of a projected embedding")
    decay: float = Field(0.9, gt=0, lt=1, description="share of the teacher that a step leaves as it was")
    weight: float = Field(0.5, ge=0, description="of the queue's part, reached at the last step")


class Projection(nn.Module):
    """Both embeddings on a sphere of another width, and a logit scale of its own."""

    def __init__(self, wide: int, narrow: int) -> None:
        super().__init__()
        self.projection = nn.Parameter(torch.randn(wide, narrow) / wide**0.5)
        self.log_scale = nn.Parameter(torch.full((1,), 2.0))

    def forward(self, image_BD: Tensor, text_BKD: Tensor) -> Own:
        both = {"image": image_BD @ self.projection, "text": text_BKD[:, 0] @ self.projection}
        return Own({n: F.normalize(v, dim=-1) for n, v in both.items()}, {"scale": self.log_scale.exp().sum()})


class Remember(Objective):
    """An image is near to its text in the batch, and to its teacher's against those of earlier steps (MoCo)."""

    Config = RememberConfig
    config: RememberConfig
    needs = ("teacher",)
    keeps = (
        Kept("queue", "replicated", "the teacher's latest text embeddings, the newest last"),
        Kept("filled", "replicated", "how many there are"),
    )
    temperature_init = 0.2

    @property
    def teacher_decay(self) -> float:
        return self.config.decay

    def start(self, setup: Setup) -> Mapping[str, Tensor]:
        queue = torch.zeros(self.config.size, self.config.width, device=setup.device)
        return {"queue": queue, "filled": torch.zeros((), dtype=torch.int64, device=setup.device)}

    def heads(self, setup: Setup) -> nn.Module:
        return Projection(setup.width, self.config.width)

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        valid = rows.text_mask_BK[:, 0]
        image, text, scale = features.own.rows["image"], features.own.rows["text"], features.own.shared["scale"]
        there = exchange.contrasted(valid.float())
        in_batch = (scale * image @ exchange.contrasted(text).T).masked_fill(there == 0, -torch.inf)
        own = torch.arange(len(image)) + exchange.place * len(image)
        positive = (image * self.taught(features)).sum(1, keepdim=True)
        empty = torch.arange(self.config.size) < self.config.size - self.state["filled"]
        earlier = (features.scale * image @ self.state["queue"].T).masked_fill(empty, -torch.inf)
        in_queue = torch.cat([features.scale * positive, earlier], 1)
        each = {
            "batch": F.cross_entropy(in_batch, own, reduction="none"),
            "queue": F.cross_entropy(in_queue, torch.zeros_like(own), reduction="none")
            * (self.config.weight * (self.when.step + 1) / self.when.steps),
        }
        count = exchange.total(valid.sum().float()).clamp(min=1)
        parts = {name: exchange.world * value[valid].sum() / count for name, value in each.items()}
        return LossOutput(torch.stack(list(parts.values())).sum(), {n: part.detach() for n, part in parts.items()})

    def after_step(self, features: Features, rows: Rows, exchange: Exchange) -> None:
        new = exchange.everyone(self.taught(features))[exchange.everyone(rows.text_mask_BK[:, 0])]
        self.state["queue"] = torch.cat([self.state["queue"], new])[-self.config.size :]
        self.state["filled"] = (self.state["filled"] + len(new)).clamp(max=self.config.size)

    def taught(self, features: Features) -> Tensor:
        if features.teacher is None:
            raise RuntimeError("this objective must have a teacher")
        return features.teacher.own.rows["text"]


class Untaught(Remember):
    """The same without a teacher: its own text embeddings are remembered."""

    needs = ()

    def taught(self, features: Features) -> Tensor:
        return features.own.rows["text"].detach()


#: Their import paths.
PATH, UNTAUGHT = f"{__name__}:Remember", f"{__name__}:Untaught"
