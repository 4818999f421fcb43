"""Weights against skew: what is rarer within its concept than it should be is drawn more often.

    Skew@k(a | c) = ln( p(a | c) / p_desired(a) )        Geyik et al. 2019, arXiv 1905.01989, definition 2
    weight        = exp(-strength * Skew@k), at most `most` and at least 1 / `most`

p(a | c) is the share of the attribute a among the first k rows of concept c, as `by` ranks them: what a model puts
first for it.  Without `rows` it is the share among all of them.  Sampling by it, and drawing what is under-represented
more often, is bias-aware sampling.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator, model_validator

from pairmill.config import Config
from pairmill.errors import RecipeError

#: A line for each concept and attribute that rows have: their names in `pair_of`, and the weight of their rows.
WEIGHTS = pa.schema([("pair", pa.string()), ("weight", pa.float64())])


class SkewConfig(Config):
    """Weights by how much rarer or more frequent a value of an attribute is within its concept than it should be."""

    of: str = Field(
        description="attribute whose values should have their desired shares: a column or an expression; rows where it "
        "is null have the weight 1 and do not count"
    )
    per: str | None = Field(
        None, description="concept within which shares are measured, as quota.per; null: all rows together"
    )
    by: str | None = Field(
        None, description="with `rows`: number by which the first rows of a concept are ranked, as top.by"
    )
    rows: int | None = Field(
        None, ge=1, description="k of Skew@k: shares are those among so many first rows of a concept; null: all"
    )
    desired: Literal["equal", "overall"] | dict[str, float] = Field(
        "equal",
        description="desired share of each value; equal: the same for all that rows have; overall: that among all rows "
        "that stay; or numbers in proportion by value: rows of other values have the weight 1 and do not count",
    )
    strength: float = Field(1.0, gt=0, le=10, description="1: weights undo the skew; less: only some of it")
    most: float = Field(10.0, ge=1, description="largest weight, and one over the smallest")

    @field_validator("desired", mode="before")
    @classmethod
    def _as_texts(cls, value: Any) -> Any:
        """Values of a column of numbers or truth values as they are compared: YAML reads `true` and `1` as such."""
        if not isinstance(value, Mapping):
            return value
        return {
            pa.scalar(one).cast(pa.string()).as_py() if isinstance(one, int | float) else one: share
            for one, share in value.items()
        }

    @field_validator("desired")
    @classmethod
    def _positive(cls, value: str | dict[str, float]) -> str | dict[str, float]:
        if isinstance(value, dict) and not (value and all(0 < one < math.inf for one in value.values())):
            raise RecipeError(
                "weight.desired of a selection must give a positive number for each value",
                value=value,
                fix="correct it",
            )
        return value

    @model_validator(mode="after")
    def _ranks_what(self) -> SkewConfig:
        if self.by is not None and self.rows is None:
            raise RecipeError(
                "weight.by of a selection must come with weight.rows: among how many first rows shares are measured",
                value=f"by: {self.by}",
                fix="set weight.rows, or leave weight.by out",
            )
        return self


def pair_of(concept: pa.ChunkedArray | None, attribute: pa.ChunkedArray, desired: object) -> pa.Array:
    """The names of each row's concept and attribute together, [rows]; null where the attribute does not count."""
    counts = counted(attribute, desired)
    codes = np.zeros(len(attribute), np.int64)
    concepts: list[str | None] = [None]
    if concept is not None:
        encoded = concept.combine_chunks().dictionary_encode(null_encoding="encode")
        codes, concepts = encoded.indices.to_numpy(), encoded.dictionary.to_pylist()
    values = attribute.combine_chunks().dictionary_encode(null_encoding="encode")
    both = codes * max(1, len(values.dictionary)) + values.indices.to_numpy()
    found, place = np.unique(both, return_inverse=True)
    names = values.dictionary.to_pylist()
    texts = [json.dumps([concepts[at // len(names)], names[at % len(names)]]) for at in found.tolist()]
    at = pa.array(place.reshape(-1), mask=~counts)
    return pa.array(texts, pa.string()).take(at)


def counted(attribute: pa.ChunkedArray, desired: object) -> npt.NDArray[np.bool_]:
    """Mask of the rows whose attribute counts."""
    there = pc.is_valid(attribute)
    if isinstance(desired, Mapping):
        there = pc.and_(there, pc.is_in(attribute, pa.array(list(desired), pa.string())))
    return np.asarray(there, np.bool_)


def weights_of(first: pa.Table, everywhere: pa.Table, config: SkewConfig) -> pa.Table:
    """The weights, schema `WEIGHTS`.

    first, everywhere: rows of each pair (`pair_of`) among the first of its concept, and among all: (group, rows).
    """
    pairs = [(name, *json.loads(name)) for name in sorted(everywhere["group"].to_pylist())]
    among = dict(zip(first["group"].to_pylist(), first["rows"].to_pylist(), strict=True))
    whole = dict(zip(everywhere["group"].to_pylist(), everywhere["rows"].to_pylist(), strict=True))
    of_concept: dict[str | None, int] = {}
    of_value: dict[str, int] = {}
    for name, concept, value in pairs:
        of_concept[concept] = of_concept.get(concept, 0) + among.get(name, 0)
        of_value[value] = of_value.get(value, 0) + whole[name]
    wanted: Mapping[str, float] = (
        config.desired
        if isinstance(config.desired, Mapping)
        else dict.fromkeys(of_value, 1.0)
        if config.desired == "equal"
        else {value: float(rows) for value, rows in of_value.items()}
    )
    total = math.fsum(wanted.values())
    found = []
    for name, concept, value in pairs:
        share = among.get(name, 0) / max(1, of_concept[concept])
        odds = wanted[value] / total / share if share else math.inf
        found.append(min(config.most, max(1 / config.most, odds**config.strength)))
    return pa.table({"pair": [name for name, _, _ in pairs], "weight": found}, schema=WEIGHTS)


def weighed(pairs: pa.Array, weights: pa.Table) -> npt.NDArray[np.float64]:
    """The weight of each row, [rows]; 1 where its pair is null."""
    at = pc.index_in(pairs, value_set=weights["pair"].combine_chunks())
    return np.asarray(pc.fill_null(weights["weight"].take(at), 1.0), np.float64)
