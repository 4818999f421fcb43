"""The recipe's `loss.harmonise`: what becomes of an objective and its terms where their gradients conflict."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, field_validator

from pairmill.config import Config
from pairmill.errors import RecipeError
from training.objectives.composite import Composite, Term
from training.objectives.declaration import Objective

if TYPE_CHECKING:
    from torch import Tensor

    from training.gather import Exchange
    from training.losses.loss_inputs import LossOutput
    from training.model import Features, Rows

#: Needs whose tensors carry no gradient past the image embedding that is compared.
_COMPARED = ("teacher", "frozen_teacher", "negatives", "views", "image_views", "text_extra", "columns")

_Cosine = Annotated[float, Field(ge=-1, le=1)]


class HarmoniseConfig(Config):
    """What to do with gradients of `loss.objective` and `loss.terms` that conflict."""

    project: bool = Field(
        True, description="whether each of two gradients that conflict loses what points against the other"
    )
    texts: bool = Field(False, description="whether gradients are compared at the embedding of each text too")
    drop_below: tuple[_Cosine, _Cosine] | None = Field(
        None,
        description="a row whose gradients have a lower cosine at the image gets none, from this value at the start of "
        "the run to that at its end, in a straight line ([-0.3, 0]: the paper); null: no row is dropped",
    )

    @field_validator("drop_below")
    @classmethod
    def _rising(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and value[0] > value[1]:
            raise RecipeError(
                "loss.harmonise.drop_below must not fall: more rows are dropped as the run goes on",
                value=list(value),
                fix="give the lower value first",
            )
        return value


class Harmonised(Composite):
    """An objective and its terms, of whose gradients none works against another (Wu et al. 2022).

        g_a <- g_a - min(0, g_a·g_b) g_b / |g_b|²   for each two of the losses, with the other's own g_b; then their sum

    g are gradients at the image embedding of a row; the paper's are at shared parameters, and the projection is that of
    PCGrad (Yu et al. 2020), with the losses in the recipe's order in place of a random one.  The rest of a gradient (at
    texts, temperature and bias) is the plain sum.  `drop_below` gives rows that conflict more than that no gradient at
    all, as the paper's curriculum; they remain negatives of other rows.

    A gradient at an embedding is the whole batch's, whatever the ranks and micro-batches, so the result is exact.
    """

    def __init__(self, base: Objective, terms: Mapping[str, Term], config: HarmoniseConfig) -> None:
        """As of `Composite`; raises RecipeError for losses that learn past the image embedding, and without terms."""
        super().__init__(base, terms)
        self._harmonise = config
        if not terms:
            raise RecipeError(
                "loss.harmonise must come with loss.terms: a single loss has no conflict",
                value="loss.terms: {}",
                fix="add a term, for example {long: {objective: clip, slots: [1]}}, or leave loss.harmonise out",
            )
        for label, one in self._members.items():
            past = [need for need in one.needs if need not in _COMPARED]
            if type(one).heads is not Objective.heads or past:
                raise RecipeError(
                    "loss.harmonise compares gradients at the image embedding, so each loss must learn from that alone",
                    value=f"{label}, which has {past[0] if past else 'heads of its own'}",
                    fix="leave that loss out, or loss.harmonise",
                )

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        """See `Objective`."""
        from training.losses.harmony import harmonised
        from training.losses.loss_inputs import LossOutput

        labels = list(self._weights())
        found = harmonised(
            features,
            [functools.partial(self._output, label, rows=rows, exchange=exchange) for label in labels],
            project=self._harmonise.project,
            texts=self._harmonise.texts,
            least=self._least(),
        )
        base, *others = found.outputs
        parts = {**base.parts, **{label: one.total for label, one in zip(labels[1:], others, strict=True)}}
        rates = {name: rate for one in found.outputs for name, rate in one.rates.items()}
        return LossOutput(
            found.total, parts, rates | self._rates(found.conflict_B, found.common_B, found.dropped_B, rows)
        )

    def _least(self) -> float | None:
        if self._harmonise.drop_below is None:
            return None
        first, last = self._harmonise.drop_below
        return first + (last - first) * self.when.step / max(1, self.when.steps - 1)

    def _rates(self, conflict_B: Tensor, common_B: Tensor, dropped_B: Tensor, rows: Rows) -> dict[str, Tensor]:
        import torch

        def rate(some_B: Tensor, of_B: Tensor) -> Tensor:
            return torch.stack([(some_B & of_B).sum(), of_B.sum()])

        found = {"conflict_rate": rate(conflict_B, common_B)}
        if self._harmonise.drop_below is not None:
            found["dropped_rate"] = rate(dropped_B, common_B)
        if rows.dataset_B is not None and self.setup.datasets > 1:
            for number in range(self.setup.datasets):
                found[f"conflict_rate/{number}"] = rate(conflict_B, common_B & (rows.dataset_B == number))
        return found
