"""The objective `noise_adaptive`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field

from pairmill.registry import NamedConfig
from training.losses.contrast import Contrast, Spread, all_slots
from training.objectives.contrastive import Contrastive, inputs_of
from training.objectives.declaration import Kept, Setup

if TYPE_CHECKING:
    from torch import Tensor

    from training.gather import Exchange
    from training.model import Features, Rows

#: Odd numbers that mix the bits of a row's number and a slot (as in SplitMix64, Steele et al. 2014); all bits but the
#: sign.
_MIX, _SLOT, _PLUS = -7046029254386353131, -4658895280553007687, 2**63 - 1


class NoiseAdaptiveConfig(NamedConfig):
    """How strongly a pair that seems wrong is smoothed, and from when on."""

    strength: float = Field(
        0.5, ge=0, le=1, description="λ: what of the probability of noise is taken from the target; 0.5 is uncertain"
    )
    table: int = Field(
        2**20, ge=1, description="losses that are remembered, one a text; more texts than that replace each other"
    )
    given: bool = Field(
        False, description="whether ε is the data's column noise_prob for texts that have one (`data.columns`)"
    )
    warm_up: int = Field(1, ge=1, description="epochs before the losses are first told apart; 1: NEVLP's")


class NoiseAdaptive(Contrastive):
    """The less a text seems to belong to its image, the flatter is the target of both (NEVLP's noise-adaptive loss).

        y_i,ik = (1 - ω_ik)/n_i,  the rest of Σ_k ω_ik/n_i alike over the texts of other rows
        y_ik,i = 1 - ω_ik,        the rest alike over the images of other rows
        L      = ½ [mean_i -Σ_c y_ic log softmax_c(s x_i·t_c)  +  mean_ik -Σ_j y_ik,j log softmax_j(s x_j·t_ik)]

    ω = λ ε.  ε_ik: probability that the pair's loss, half of each direction's, is of the component with the larger mean
    of two normal distributions, which are fitted to the remembered losses at the end of each epoch after the warm-up;
    0 for pairs never seen, and before.  Where the column `noise_prob` is given and is a number of 0 or more, ε is that.

    No code was released; how a wrong pair's target is spread, and λ, are reconstructed.  Losses are remembered by row
    and slot, in a table of fixed size; a pair whose place another one has taken counts as never seen.  Other rows of a
    row's group are no candidates.
    """

    Config = NoiseAdaptiveConfig
    config: NoiseAdaptiveConfig
    paper = "NEVLP, Tao et al. 2024"
    keeps = (
        Kept("losses", "replicated", "the latest loss of each remembered pair"),
        Kept("keys", "replicated", "which pair it is of; -1: none"),
        Kept("mixture", "replicated", "weight, mean and variance of both components; zeros: not fitted yet"),
    )

    def __init__(self, config: NoiseAdaptiveConfig) -> None:
        """See `Objective`."""
        super().__init__(config)
        if config.given:
            self.needs, self.columns = ("columns",), ("noise_prob",)

    def start(self, setup: Setup) -> Mapping[str, Tensor]:
        """See `Objective`."""
        import torch

        size, device = self.config.table, setup.device
        return {
            "losses": torch.zeros(size, device=device),
            "keys": torch.full((size,), -1, device=device),
            "mixture": torch.zeros(2, 3, dtype=torch.float64, device=device),
        }

    def targets(self, features: Features, rows: Rows) -> list[Contrast]:
        """See `Contrastive`."""
        pairs = all_slots(rows.text_mask_BK)
        wrong_BK = (self.config.strength * self.noise(rows)).to(pairs.text_weight_Bk) * pairs.text_weight_Bk
        others = Spread((pairs.positive_Bk * wrong_BK).sum(1), wrong_BK, own=False)
        right_BK = pairs.text_weight_Bk - wrong_BK
        return [pairs._replace(positive_Bk=pairs.positive_Bk * right_BK, own_image_Bk=right_BK, spread=others)]

    def noise(self, rows: Rows) -> Tensor:
        """ε [B, K]; 0 where there is no text."""
        import torch

        from training.losses.mixture import of_larger

        key_BK = _keys(rows)
        at_BK = key_BK % len(self.state["keys"])
        seen_BK = self.state["keys"][at_BK] == key_BK
        found = of_larger(self.state["losses"][at_BK].double(), self.state["mixture"])
        found = torch.where(seen_BK, found, 0.0)
        if "noise_prob" in rows.asked:
            given = rows.asked["noise_prob"].to(found)
            found = torch.where(given >= 0, given, found)
        return torch.where(rows.text_mask_BK, found, 0.0)

    def after_step(self, features: Features, rows: Rows, exchange: Exchange) -> None:
        """Remember what this step's pairs cost; at the end of an epoch, tell the losses apart."""
        from training.losses.compose import compute_with_pairs
        from training.losses.mixture import fit_two

        pairs, self.pairs = self.pairs, ()
        if not pairs:  # a term that has no weight yet
            contrasts = [all_slots(rows.text_mask_BK)]
            pairs = compute_with_pairs(inputs_of(features, rows), contrasts, exchange, tile=self.setup.tile).pairs
        each_BK = pairs[0]
        there = exchange.everyone(rows.text_mask_BK).flatten()
        losses = exchange.everyone(each_BK).flatten()[there]
        keys = exchange.everyone(_keys(rows)).flatten()[there]
        at, last = _latest(keys % len(self.state["keys"]))
        for name, values in (("losses", losses), ("keys", keys)):
            self.state[name].index_copy_(0, at, values[last].to(self.state[name].dtype))
        epochs, left = divmod(self.when.step + 1, self.when.steps_per_epoch)
        if left == 0 and epochs >= self.config.warm_up:
            found = fit_two(self.state["losses"][self.state["keys"] >= 0])
            self.state["mixture"] = found.to(self.state["mixture"].device)


def _keys(rows: Rows) -> Tensor:
    """A number for each row and slot [B, K], the same for ever and 0 or more."""
    import torch

    slots = torch.arange(rows.text_mask_BK.shape[1], device=rows.sample_id_B.device)
    mixed = rows.sample_id_B[:, None] * _MIX + slots * _SLOT
    mixed = (mixed ^ (mixed >> 32)) * _MIX
    return (mixed ^ (mixed >> 29)) & _PLUS


def _latest(places: Tensor) -> tuple[Tensor, Tensor]:
    """Each place once, and the last index that has it: writes in an order that all ranks have alike."""
    import torch

    at, inverse = torch.unique(places, return_inverse=True)
    index = torch.arange(len(places), device=places.device)
    return at, torch.zeros_like(at).scatter_reduce_(0, inverse, index, "amax")
