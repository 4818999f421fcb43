"""The objective `distill`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from pairmill.registry import NamedConfig
from training.losses.contrast import Contrast, Likeness, all_slots
from training.objectives.contrastive import Contrastive, frozen_of

if TYPE_CHECKING:
    from training.model import Features, Rows


class DistillConfig(NamedConfig):
    """How much is learnt from the pairs, and how much from the teacher."""

    hard: float = Field(
        0.0,
        ge=0,
        description="weight of the contrast with the pairs as target; 0: the teacher alone; 1: open_clip's",
    )
    soft: float = Field(1.0, gt=0, description="weight of the contrast with the teacher as target; 1: open_clip's")
    temperature: float = Field(
        1.0, gt=0, description="what both models' logits are divided by for the teacher's target; 1: open_clip's"
    )


class Distill(Contrastive):
    """The softmaxes of a model that does not learn are the targets (Hinton et al. 2015, on CLIP's logits).

        L = hard · L_pairs + soft · T² · ½ [mean_i KL(p'_i ‖ p_i) + mean over texts of KL(p'_ik ‖ p_ik)]

    L_pairs: `one_to_k`, which is CLIP for one text.  p_i: softmax over texts of s x_i·t_jl / T; p_ik: over images;
    p': the teacher's, with its own scale.  T: `temperature`; T² keeps the size of the gradient.  In both models, other
    rows of a row's group are no candidates.  Where the teacher is the run's own first model, there is nothing to learn
    from it alone: set `hard`, or add this to another objective.

    The released code (open_clip, `DistillClipLoss`) has cross-entropies, not divergences: the gradient is the same.
    """

    Config = DistillConfig
    config: DistillConfig
    paper = "Distillation, Hinton et al. 2015"
    forms = ("paper", "released")
    needs = ("frozen_teacher",)

    @property
    def total_weight(self) -> float:
        """See `Contrastive`."""
        return self.config.hard + self._soft

    @property
    def _soft(self) -> float:
        return self.config.soft * self.config.temperature**2

    def targets(self, features: Features, rows: Rows) -> list[Contrast]:
        """See `Contrastive`."""
        from training.losses.tiles import inner_products

        teacher, temperature = frozen_of(self, features, rows), self.config.temperature
        hard, soft = self.config.hard / self.total_weight, self._soft / self.total_weight
        pairs = all_slots(rows.text_mask_BK)
        of_row, of_text = pairs.image_weight_B, pairs.text_weight_Bk

        def mixed(pairs_share: float) -> Contrast:
            taught = Likeness(
                teacher.image_BD * (teacher.scale / temperature),
                teacher.text_BKD,
                inner_products,
                (1 - pairs_share) * of_row,
                (1 - pairs_share) * of_text,
                relative=self.form == "paper",
            )
            positive = pairs.positive_Bk * pairs_share
            return pairs._replace(positive_Bk=positive, own_image_Bk=of_text * pairs_share, soft=taught)

        if temperature == 1:
            return [mixed(hard)]
        return [pairs._replace(share=hard), mixed(0.0)._replace(share=soft, sharpness=1 / temperature)]
