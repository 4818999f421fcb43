"""A tokenizer answers each text, within the context: else a picture would learn the text of another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from small_datasets import reader_of, write_parquet

from pairmill.errors import IntegrityError
from training.data.batches import assemble, every_row, read_here
from training.data.cursor import ReadingPlan
from training.data.source import open_source


@pytest.mark.parametrize(
    ("tokenize", "says"),
    [
        (lambda texts: [[1, 2]] * (len(texts) - 1), "5 answers to 6"),
        (lambda texts: [[1, 2]] * (len(texts) + 1), "7 answers to 6"),
        (lambda texts: [], "0 answers to 6"),
    ],
    ids=["one_less", "one_more", "none"],
)
def test_a_tokenizer_that_does_not_stops_the_run(
    tokenize: Callable[[list[str]], list[list[int]]], says: str, tmp_path: Path
) -> None:
    source = open_source(str(write_parquet(tmp_path / "x.parquet", 6)))
    with pytest.raises(IntegrityError, match=says):
        list(every_row(replace(reader_of([source]), tokenize=tokenize)))


def test_a_text_longer_than_the_context_stops_the_run(tmp_path: Path) -> None:
    source = open_source(str(write_parquet(tmp_path / "x.parquet", 8)))
    plan = ReadingPlan(((source.rows, 1.0),), seed=3, lanes=1, batch_size=8, bundle_rows=8)
    reader = replace(reader_of([source]), tokenize=lambda texts: [[1] * (9 if "3" in text else 4) for text in texts])
    with pytest.raises(IntegrityError, match="truncate to the context length: 9 tokens, not 8"):
        next(assemble(read_here(plan, reader), plan, length=8))
