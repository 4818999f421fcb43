"""What a row knows of its picture beside what models wrote: its alt text, and the text that an OCR head read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from curation.gates.gate import TextGate, Written
from pairmill.errors import RecipeError, nearest


def read_column(head: str) -> str:
    """The column of what an entry of `score` with the head `ocr` reads."""
    return f"{head}_text"


class ReaderGate(TextGate):
    """Base of the gates with a key `ocr`, the entry of `score` that read the pictures; null: none did."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.reads = () if config.ocr is None else (read_column(config.ocr),)

    def check(self, columns: Mapping[str, pa.DataType]) -> None:
        """Raise RecipeError for a head that reads no text."""
        head = self.config.ocr
        if head is not None and columns.get(read_column(head)) != pa.string():
            texts = [
                n.removesuffix("_text") for n, kind in columns.items() if n.endswith("_text") and kind == pa.string()
            ]
            raise RecipeError(
                f"{self.config.name}.ocr must name an entry of `score` with the head ocr",
                value=head,
                fix=f"perhaps you mean: {nearest(head, texts)}"
                if texts
                else "add score: {words: ocr}, and write ocr: words",
            )

    def shown(self, text: Written) -> str | None:
        """What the picture shows as text; empty if it shows none, None if nobody read it."""
        head = self.config.ocr
        read: str | None = None if head is None else text.row[read_column(head)]
        return read
