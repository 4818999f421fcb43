"""The objective `multilinear`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from pairmill.errors import RecipeError
from pairmill.registry import NamedConfig
from training.objectives.declaration import Objective, Setup

if TYPE_CHECKING:
    from training.gather import Exchange
    from training.losses.loss_inputs import LossOutput
    from training.model import Features, Rows


class MultilinearConfig(NamedConfig):
    """Which texts it takes, and against what."""

    slots: tuple[int, int] = Field((0, 1), description="the two text slots that are compared with the image, from 0")
    negatives: Literal["n", "n_squared"] = Field(
        "n",
        description="n: one random pair of the other two for each row of the batch; n_squared: all pairs of rows "
        "(Symile's names)",
    )
    sqrt_width: bool = Field(
        False,
        description="true: products are multiplied by the root of the width, for those of random unit vectors shrink "
        "by it",
    )


class Multilinear(Objective):
    """An image and two texts agree all three at once, by the product Σ_d x_d a_d b_d (Symile, Saporta et al. 2024).

        L_x = mean_i [LSE_j s<x_i, a_π(j), b_ρ(j)> - s<x_i, a_i, b_i>],   L = (L_x + L_a + L_b) / 3

    Each of the three is the anchor in turn, against one random permutation each of the other two, with its own pair in
    the place of its row; or against all N² pairs.  A row counts if it has both texts.
    Permutations are drawn by (seed, step) over the rows in the order of their ids, the same on all workers: so W
    workers compute what one would.  Negatives of which both parts are the anchor's own by chance, or of its group, are
    left out; the released form keeps the former.  That code draws without a seed, and knows no groups.
    It needs both texts to score an image, so add it to an objective for pairs.  Symile raises the limit of the
    temperature, for products of three unit vectors are small: see temperature.max, or sqrt_width.  The logits take
    O(B·G) memory, and features of all rows are gathered in every mode but local; with n_squared, O(G²) at least.
    """

    paper = "Symile, Saporta et al. 2024"
    forms = ("paper", "released")
    Config = MultilinearConfig
    config: MultilinearConfig

    def begin(self, setup: Setup) -> None:
        """See `Objective`.  Raises RecipeError for slots that the data do not have."""
        first, second = self.config.slots
        if first == second or not all(0 <= slot < setup.slots for slot in self.config.slots):
            raise RecipeError(
                f"loss.objective {self.config.name}: slots must be two different text slots of the data, from 0",
                value=f"{first} and {second} of {setup.slots}",
                fix="give the data two text slots or more, data.texts",
            )
        super().begin(setup)

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        """See `Objective`."""
        import torch

        from training.losses.loss_inputs import LossOutput
        from training.losses.multilinear_product import multilinear_loss

        slots = list(self.config.slots)
        factor = features.image_BD.shape[1] ** 0.5 if self.config.sqrt_width else 1.0
        total = multilinear_loss(
            torch.cat([features.image_BD[:, None], features.text_BKD[:, slots]], 1),
            rows.text_mask_BK[:, slots].all(1),
            features.scale * factor,
            rows.group_B,
            rows.sample_id_B,
            exchange,
            draw=(self.setup.seed, self.when.step) if self.config.negatives == "n" else None,
            tile=self.setup.tile,
            keeps_own=self.form == "released",
        )
        return LossOutput(total, {self.config.name: total.detach()})
