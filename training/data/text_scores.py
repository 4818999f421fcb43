"""How well texts fit their pictures, by the dual encoders of the curation: beside the texts that a row has.

score_NAME        number of the row's first text, the caption
score_NAME_texts  a number for each of the row's texts
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from pairmill.errors import RecipeError
from pairmill.layout import score_column, text_scores_column
from training.data.column_forms import is_list, storage
from training.data.sample import TextScores


def columns_of(schema: pa.Schema, names: Sequence[str], *, dataset: str) -> dict[str, str]:
    """Encoder -> the column of its scores in a table of texts.  Raises RecipeError for one that has none."""
    found: dict[str, str] = {}
    for name in names:
        for column in (text_scores_column(name), score_column(name)):
            kind = schema.field(column).type if column in schema.names else pa.null()
            number = storage(kind).value_type if is_list(kind) else kind
            if pa.types.is_floating(storage(number)):
                found[name] = column
                break
        else:
            raise no_scores(name, dataset)
    return found


def no_scores(name: str, dataset: str) -> RecipeError:
    """The error of a dataset without the scores of an encoder."""
    return RecipeError(
        "data.texts: min_score and harder_by must name dual encoders whose scores the dataset has",
        value=f"{name}, in {dataset}",
        fix=f"add embed.{name} to its curation recipe and run `pairmill curate`, or leave them out",
    )


def with_scores(texts: object, scores: Mapping[str, object]) -> object:
    """The texts of a row, each with its scores; what is no text, nor a list of texts or structs, unchanged.

    scores: encoder -> a number for each text, or that of the first alone; None: there are none.  Numbers that are not
    as many as the texts belong to others: only the first counts, which is that of the caption.
    """
    if not isinstance(texts, list):
        texts = [texts]
    if not all(isinstance(one, Mapping | str) for one in texts):
        return texts
    structs: list[Mapping[str, object]] = [one if isinstance(one, Mapping) else {"text": one} for one in texts]
    by_text: list[list[tuple[str, float]]] = [[] for _ in structs]
    for name, found in scores.items():
        values = found if isinstance(found, list) else [found]
        values = values if len(values) == len(structs) else values[:1]
        for own, value in zip(by_text, values, strict=False):
            if isinstance(value, float):
                own.append((name, value))
    return [{**text, "scores": TextScores(own)} for text, own in zip(structs, by_text, strict=True)]
