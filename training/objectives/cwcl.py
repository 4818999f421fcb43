"""The objective `cwcl`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from pairmill.registry import NamedConfig
from training.losses.contrast import Contrast, Likeness, all_slots
from training.objectives.contrastive import Contrastive, frozen_of

if TYPE_CHECKING:
    from torch import Tensor

    from training.losses.tiles import Measure
    from training.model import Features, Rows


class CwclConfig(NamedConfig):
    """How the likeness of two images becomes a weight."""

    threshold: float = Field(
        0.0, ge=0, lt=1, description="weights up to this count for nothing; 0: the paper's; unrelated images have ½"
    )
    power: float = Field(1.0, gt=0, description="what a weight less the threshold is raised to; 1: the paper's")


class Cwcl(Contrastive):
    """The texts of an image are as positive as their image is like it, to a tower that does not learn.

        w_ij = max(0, ½ + ½ u_i·u_j - w0)^γ         u: the frozen tower's embeddings of images
        L    = mean_i -Σ_jk (w_ij / Σ_jl w_ij) log softmax_jk(s x_i·t_jk) + mean_ik -log softmax_j(s x_j·t_ik) at j = i

    Sums over the texts that take part; other rows of a row's group are no candidates, whatever their likeness.
    w0: `threshold`, γ: `power`; both are ours: without them, weights of unrelated images near ½ make targets very flat.
    """

    Config = CwclConfig
    config: CwclConfig
    paper = "CWCL, Srinivasa et al. 2023"
    needs = ("frozen_teacher",)
    optional_tensors = ("teacher_text",)

    @property
    def total_weight(self) -> float:
        """See `Contrastive`; the sum of both directions, not their mean."""
        return 2.0

    def targets(self, features: Features, rows: Rows) -> list[Contrast]:
        """See `Contrastive`."""
        image_BD = frozen_of(self, features, rows).image_BD
        return [like_images(rows.text_mask_BK, image_BD, self._weights)]

    def _weights(self, query: Tensor, key: Tensor) -> Tensor:
        weight = (query @ key.T).mul_(0.5).add_(0.5 - self.config.threshold).clamp_(min=0)
        return weight if self.config.power == 1 else weight.pow_(self.config.power)


def like_images(text_mask_BK: Tensor, of_image: Tensor, measure: Measure) -> Contrast:
    """Images have as target their likeness [B, …] to a text's image, over its sum; texts have their own image."""
    pairs = all_slots(text_mask_BK)
    key_BK = of_image[:, None].expand(-1, text_mask_BK.shape[1], *of_image.shape[1:])
    alike = Likeness(of_image, key_BK, measure, pairs.image_weight_B, None, logs=False)
    return pairs._replace(positive_Bk=pairs.positive_Bk * 0, soft=alike)
