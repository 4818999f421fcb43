"""Columns that objectives ask for (`Objective.columns`), beside the pictures and texts of a row.

`data.columns` says what they are called in the data.  A value that is missing, or of no use, is taken as UNKNOWN says;
one of no use is a problem of its row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pairmill.errors import RecipeError, nearest
from pairmill.folding import text_digest
from training.data.column_forms import is_list, is_string, storage
from training.data.sample import hex_id
from training.data.text_scores import with_scores

NOISE, WEIGHT, TAGS = "noise_prob", "sample_weight", "tags"

#: T: tags of a row that are kept, the first ones.
MOST_TAGS = 64

#: By name, what each is; their shapes: `training.objectives.tensor_shapes`.
COLUMNS: Mapping[str, str] = {
    NOISE: "probability that a text does not belong to its image; a list has one for each text of the "
    "row, a number is of the first text, the caption; -1 for unknown",
    WEIGHT: "weight of a row, 0 or more; 1 for unknown; for objectives of your own: none below reads it",
    TAGS: f"ids of what is in a picture; -1 for none; G = {MOST_TAGS} in a run, of which a row has the first; "
    "words become ids whatever their case, width and spaces",
}

#: What stands for a value that is not there.
UNKNOWN: Mapping[str, float] = {NOISE: -1.0, WEIGHT: 1.0, TAGS: -1}

#: The name of NOISE among the scores of a text (`TextScores`), which no encoder has.
_AMONG_SCORES = f":{NOISE}"


def fits(name: str, kind: pa.DataType) -> bool:
    """Whether a column of this type can be asked for by that name."""
    kind = storage(kind)
    if name == TAGS:
        return is_list(kind) and (is_string(kind.value_type) or bool(pa.types.is_integer(storage(kind.value_type))))
    if name == NOISE and is_list(kind):
        kind = storage(kind.value_type)
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


#: What `fits`, in words.
FORMS: Mapping[str, str] = {
    NOISE: "numbers, or lists of a number for each text",
    WEIGHT: "numbers",
    TAGS: "lists of words or of integers",
}


def columns_of(schema: pa.Schema, asked: Mapping[str, str], *, dataset: str) -> None:
    """Raise RecipeError for a column that the dataset lacks, or that has another form.

    asked: by the names of COLUMNS, what each is called in the data.
    """
    for name, column in asked.items():
        if column not in schema.names or not fits(name, schema.field(column).type):
            there = f" ({schema.field(column).type})" if column in schema.names else ""
            raise no_column(name, f"{column}{there}", dataset, [f.name for f in schema if fits(name, f.type)])


def no_column(name: str, column: str, dataset: str, known: Sequence[str]) -> RecipeError:
    """The error of a dataset without a column that is asked for."""
    return RecipeError(
        f"loss.objective asks for {name}: data.columns must name a column of {FORMS[name]}",
        value=f"{column}, in {dataset}",
        fix=f"set data.columns: {{{name}: …}}; perhaps you mean: {nearest(column, known)}"
        if known
        else "give data with such a column, or choose another objective",
    )


class Asked(NamedTuple):
    """What the rows of a table have of the columns that are asked for."""

    texts: list[object]  #: of each row, with the probability of noise among the scores
    weights: list[float | None] | None  #: None: not asked for
    tags: list[list[int] | None] | None
    wrong: list[str | None]  #: what is of no use in a row


def asked_of(values: Mapping[str, Sequence[object]], texts: Sequence[object]) -> Asked:
    """values: by the names of COLUMNS, one for each row.  texts: of the rows."""
    wrong: list[str | None] = [None] * len(texts)

    def sound(name: str, sift: Callable[[object], tuple[object, bool]]) -> list[object]:
        found = [sift(value) for value in values[name]]
        for row, (_, odd) in enumerate(found):
            if odd and wrong[row] is None:
                wrong[row] = f"its {name} holds what is not {_RANGES[name]}"
        return [value for value, _ in found]

    noise = sound(NOISE, lambda value: _each(value, _probability)) if NOISE in values else None
    if noise is not None:
        texts = [with_scores(one, {_AMONG_SCORES: own}) for one, own in zip(texts, noise, strict=True)]
    return Asked(
        list(texts),
        sound(WEIGHT, lambda value: _one(value, _weight)) if WEIGHT in values else None,  # type: ignore[arg-type]
        sound(TAGS, lambda value: _each(value, _tag)) if TAGS in values else None,  # type: ignore[arg-type]
        wrong,
    )


_RANGES: Mapping[str, str] = {
    NOISE: "a number from 0 to 1",
    WEIGHT: "a finite number of 0 or more",
    TAGS: "a word, or an integer of 0 or more",
}


def _one(value: object, read: Callable[[object], float | int | None]) -> tuple[float | int | None, bool]:
    """A value, and whether there is one that is of no use."""
    found = None if value is None else read(value)
    return found, value is not None and found is None


def _each(value: object, read: Callable[[object], float | int | None]) -> tuple[object, bool]:
    """As `_one`, of a value or of each in a list."""
    if not isinstance(value, list | tuple):
        return _one(value, read)
    found = [_one(one, read) for one in value]
    return [one for one, _ in found], any(odd for _, odd in found)


def _weight(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    number = float(np.float32(value))
    return number if math.isfinite(number) and number >= 0 else None


def _probability(value: object) -> float | None:
    found = _weight(value)
    return found if found is not None and found <= 1 else None


def _tag(value: object) -> int | None:
    if isinstance(value, str):
        return hex_id(text_digest(value).hex())
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63 else None


def noise_of(scores: Sequence[tuple[str, float]]) -> float:
    """A text's probability of noise, of its scores."""
    return dict(scores).get(_AMONG_SCORES, UNKNOWN[NOISE])


def tags_of(tags: Sequence[int | None] | None) -> NDArray[np.int64]:
    """The ids of a row, [T], without those that are missing."""
    found = np.full(MOST_TAGS, -1, np.int64)
    there = [tag for tag in tags or () if tag is not None][:MOST_TAGS]
    found[: len(there)] = there
    return found
