"""The objective `jaccard`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pairmill.registry import NamedConfig
from training.losses.contrast import Contrast
from training.objectives.contrastive import Contrastive
from training.objectives.cwcl import like_images

if TYPE_CHECKING:
    from training.model import Features, Rows


class JaccardConfig(NamedConfig):
    """It has no keys of its own."""


class Jaccard(Contrastive):
    """The texts of an image are as positive as the tags of their image agree with its own.

        w_ij = |A_i ∩ A_j| / |A_i ∪ A_j|         A: the tags of a picture (column `tags`)
        L    = mean_i -Σ_jk (w_ij / Σ_jl w_ij) log softmax_jk(s x_i·t_jk) + mean_ik -log softmax_j(s x_j·t_ik) at j = i

    The form of `cwcl`, with labels for a tower (soft positives from structured labels: SPACE-2, He et al. 2022).  An
    image without tags has its own texts as target.  Other rows of a row's group are no candidates.
    """

    Config = JaccardConfig
    paper = "CWCL, Srinivasa et al. 2023"
    needs = ("columns",)
    columns = ("tags",)

    @property
    def total_weight(self) -> float:
        """See `Contrastive`; the sum of both directions, not their mean."""
        return 2.0

    def targets(self, features: Features, rows: Rows) -> list[Contrast]:
        """See `Contrastive`."""
        from training.losses.tag_overlap import overlap, sets
        from training.losses.tiles import wide

        measure = partial(overlap, dtype=wide(features.image_BD).dtype)
        return [like_images(rows.text_mask_BK, sets(rows.asked["tags"]), measure)]
