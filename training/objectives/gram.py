"""The objective `gram`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from pairmill.registry import NamedConfig
from training.objectives.declaration import Objective

if TYPE_CHECKING:
    from training.gather import Exchange
    from training.losses.loss_inputs import LossOutput
    from training.model import Features, Rows


class GramConfig(NamedConfig):
    """How soft its targets are, and how near texts may be."""

    label_smoothing: float = Field(
        0.1, ge=0, lt=1, description="share of a target that lies on all rows alike (GRAM: 0.1)"
    )
    epsilon: float = Field(
        1e-4,
        gt=0,
        lt=1,
        description="added to the squared length of each text, so that nearly equal texts span a volume at all",
    )


class Gram(Objective):
    """The volume that an image spans with all texts of its row is small (GRAM, Cicchetti et al. 2025).

        Vol_ij² = det Gram(x_i, t_j1 … t_jK) = det(G_j + εI) (x_i·x_i - ‖L_j⁻¹ r_ij‖²)
        L       = ½ [CE(-s Vol over rows of texts) + CE(-s Vol over images)],   with label smoothing

    G_j: products of the texts of row j;  L_j = chol(G_j + εI);  r_ij = [x_i·t_jk]_k.

    s = 1/τ is the model's, which begins at 0.07 as GRAM's τ does.  A missing text leaves the volume as it is.  Texts
    that say the same (a translation) make every volume of their row small, whatever the image, and give little
    gradient: leave near-duplicate texts out.  With one text Vol = sin of the angle, and a text opposite to its image is
    as near as an equal one.
    The released code's matching loss needs a fusion encoder, and is left out.  Its anchor is the text; here it is the
    image.  The released form has no ε, and detaches what each anchor is compared with: images learn from one direction,
    texts from the other.
    """

    paper = "GRAM, Cicchetti et al. 2025"
    forms = ("paper", "released")
    Config = GramConfig
    config: GramConfig

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        """See `Objective`."""
        from training.losses.loss_inputs import LossOutput
        from training.losses.volume import volume_loss

        total = volume_loss(
            features.image_BD,
            features.text_BKD,
            rows.text_mask_BK,
            features.scale,
            rows.group_B,
            exchange,
            tile=self.setup.tile,
            epsilon=self.config.epsilon,
            smoothing=self.config.label_smoothing,
            detached=self.form == "released",
        )
        return LossOutput(total, {self.config.name: total.detach()})
