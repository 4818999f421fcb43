"""Texts of which their own model was unsure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from pydantic import Field, model_validator

from curation.gates.gate import ACCEPTED, Gate, GateKeys, Verdict, Written


class ProbabilityKeys(GateKeys):
    """The threshold: a number, or a quantile of the texts of a shard."""

    least: float | None = Field(
        None, le=0, description="least mean token log-probability; null: by `quantile`, or no fixed one"
    )
    quantile: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="share of the texts of each model, prompt and language that is refused, the improbable ones; null: "
        "none.  The threshold is estimated in each shard, which planning makes a random sample of the run; the share "
        "that is refused is exact to about sqrt(q (1 - q) / n) for n texts: 0.02 ± 0.003 for 2,000",
    )
    min_texts: int = Field(
        200, ge=1, description="texts of a model, prompt and language in a shard, below which `quantile` refuses none"
    )

    @model_validator(mode="after")
    def _one_at_least(self) -> ProbabilityKeys:
        if self.least is None and self.quantile is None:
            raise ValueError("log_probability: least or quantile must be set, got neither; set quantile: 0.02")
        return self


class ProbabilityGate(Gate):
    """Refuse a text whose mean token log-probability, by the model that wrote it, is too low; that is the value.

    A text without one passes: a server may not give any.
    """

    Config = ProbabilityKeys

    def __call__(self, texts: Sequence[Written]) -> Sequence[Verdict]:
        """A verdict for each text."""
        groups: dict[tuple[str | None, ...], list[float]] = defaultdict(list)
        for one in texts:
            if (score := _score(one)) is not None:
                groups[_group(one)].append(score)
        least = {group: self._threshold(scores) for group, scores in groups.items()}
        return [self._verdict(one, least) for one in texts]

    def _threshold(self, scores: Sequence[float]) -> float:
        fixed = -math.inf if self.config.least is None else float(np.float32(self.config.least))
        if self.config.quantile is None or len(scores) < self.config.min_texts:
            return fixed
        # A score that occurs: the same text is never refused in one run and accepted in the next for rounding.
        return max(fixed, float(np.quantile(scores, self.config.quantile, method="higher")))

    @staticmethod
    def _verdict(text: Written, least: dict[tuple[str | None, ...], float]) -> Verdict:
        score = _score(text)
        if score is None or score >= least[_group(text)]:
            return ACCEPTED
        return Verdict(True, score)


def _group(text: Written) -> tuple[str | None, ...]:
    return text.model, text.prompt_id, text.language


def _score(text: Written) -> float | None:
    return None if text.score is None or math.isnan(text.score) else text.score
