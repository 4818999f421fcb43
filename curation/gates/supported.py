"""What a row knows of its picture beside what models wrote: its alt text, and the text that an OCR head read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from pairmill.errors import RecipeError, nearest


def read_column(head: str) -> str:
    """The column of what an entry of `score` with the head `ocr` reads."""
    return f"{head}_text"


def check_reader(gate: str, head: str, columns: Mapping[str, pa.DataType]) -> None:
    """Raise RecipeError if a head's text is no column of texts.  gate: its name, for the message."""
    if columns.get(read_column(head)) != pa.string():
        texts = [n.removesuffix("_text") for n, kind in columns.items() if n.endswith("_text") and kind == pa.string()]
        raise RecipeError(
            f"{gate}.ocr must name an entry of `score` with the head ocr",
            value=head,
            fix=f"perhaps you mean: {nearest(head, texts)}"
            if texts
            else "add score: {words: ocr}, and write ocr: words",
        )


def shown_text(row: Mapping[str, Any], head: str | None) -> str | None:
    """What the picture shows as text; empty if it shows none, None if nobody read it."""
    text: str | None = row[read_column(head)] if head is not None else None
    return text
