"""Read a dataset of the recipe with the training data layer, in its stored order, and choose among a row's texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa

from pairmill.languages import UNKNOWN, canonical, matches
from pairmill.layout import OTHER_KINDS
from training.data.config import DataConfig
from training.data.sample import Source
from training.data.source import open_source
from training.evaluate.config import EvaluateDatasetConfig

#: Rows of a large piece that are read at a time.
_ROWS = 1024


class EvaluatedText(NamedTuple):
    """A text of a row, blank only as a line of a `.txt`.  language: as `pairmill.languages.canonical` spells it."""

    text: str
    language: str
    kind: str


class EvaluatedRow(NamedTuple):
    """A row of a dataset.

    image: encoded; empty if there is none.  group_id: rows of one show the same image; -1: unknown.  label: number of
    its class, if it has one.  textless: it has no text, and is an image of the dataset all the same.
    """

    image: bytes
    texts: list[EvaluatedText]
    group_id: int = -1
    label: int | None = None
    textless: bool = False


def read_rows(dataset: EvaluateDatasetConfig) -> Iterator[EvaluatedRow]:
    """Every row, in the dataset's order, at most 4 * _ROWS of them in memory at a time.

    Raises RecipeError if the dataset does not exist, is empty or lacks a column.
    """
    source = open_dataset(dataset)
    for piece, rows in enumerate(source.rows.tolist()):
        # A piece of a few thousand rows is read once; only larger ones are worth being opened several times.
        step = rows if rows <= 4 * _ROWS else _ROWS
        for start in range(0, rows, step):
            yield from rows_of(source.read(piece, start, min(start + step, rows)))


def open_dataset(dataset: EvaluateDatasetConfig) -> Source:
    """The rows of a dataset.  Raises RecipeError if it does not exist, is empty or lacks a column."""
    columns = DataConfig(path=dataset.path, image_column=dataset.image_column, text_column=dataset.text_column)
    return open_source(dataset.path, dataset.selection, columns, evaluated=True)


def rows_of(table: pa.Table) -> Iterator[EvaluatedRow]:
    """The rows of a table of SAMPLE columns."""
    for batch in table.select(["image", "texts", "group_id", "label", "lines"]).to_batches(max_chunksize=256):
        for row in batch.to_pylist():
            texts = [
                EvaluatedText(text["text"], canonical(text["language"]), text["kind"] or UNKNOWN)
                for text in row["texts"] or ()
                if (row["lines"] or (text["text"] and text["text"].strip())) and text["kind"] not in OTHER_KINDS
            ]
            textless = bool(row["lines"]) and not row["texts"]
            yield EvaluatedRow(row["image"] or b"", texts, row["group_id"], row["label"], textless)


def chosen_texts(
    texts: Sequence[EvaluatedText], languages: Sequence[str] | None, kinds: Sequence[str] | None
) -> list[EvaluatedText]:
    """The texts in these languages and of these kinds (None: any), repeated ones too; `zh` also takes `zh-Hant`."""
    return [
        text
        for text in texts
        if (kinds is None or text.kind in kinds)
        and (languages is None or any(matches(text.language, wanted) for wanted in languages))
    ]
