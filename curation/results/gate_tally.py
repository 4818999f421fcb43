"""What the gates said of the texts that models wrote, by model and prompt, with examples of what they refused."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pairmill.layout import GATE, written_texts

#: Examples of each gate; characters of their texts.
_EXAMPLES, _CHARACTERS = 6, 400


class Writer(NamedTuple):
    """Who wrote a text: a model, and for which prompt or into which language."""

    model: str
    asked: str


class GateTally:
    """The verdicts of all rows, in memory that does not grow with them."""

    def __init__(self) -> None:
        self._texts: Counter[Writer] = Counter()
        self._refused: dict[Writer, Counter[str]] = defaultdict(Counter)
        self._edited: dict[Writer, Counter[str]] = defaultdict(Counter)
        self._examples: dict[str, list[tuple[str, int, dict[str, Any]]]] = defaultdict(list)

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Count rows of the product: uid, what `layout.row_texts` reads and `gate`."""
        for row in rows:
            written: list[dict[str, Any]] = written_texts(row)[1:]
            for at, (text, verdict) in enumerate(zip(written, row.get(GATE) or (), strict=False)):
                writer = Writer(text["model"] or "", text["prompt_id"] or f"into {text['language']}")
                self._texts[writer] += 1
                for counts, gate in (
                    (self._refused, verdict["refused_by"]),
                    (self._edited, verdict["edited_by"]),
                ):
                    if gate is not None:
                        counts[writer][gate] += 1
                gate = verdict["refused_by"] or verdict["edited_by"]
                if gate is not None:
                    self._show(gate, (row["uid"], at, _example(row, text, verdict, writer)))

    def _show(self, gate: str, example: tuple[str, int, dict[str, Any]]) -> None:
        """The rows of the smallest uids are shown: a sample that no order of shards changes."""
        self._examples[gate] = heapq.nsmallest(_EXAMPLES, [*self._examples[gate], example], key=lambda one: one[:2])

    def data(self) -> dict[str, Any]:
        """Plain data, for report.json."""
        return {
            "writers": [
                {
                    **writer._asdict(),
                    "texts": self._texts[writer],
                    "refused": dict(self._refused[writer].most_common()),
                    "edited": dict(self._edited[writer].most_common()),
                }
                for writer in sorted(self._texts)
            ],
            "examples": {gate: [one[2] for one in shown] for gate, shown in sorted(self._examples.items())},
        }


def _example(
    row: Mapping[str, Any], text: Mapping[str, Any], verdict: Mapping[str, Any], writer: Writer
) -> dict[str, Any]:
    return {
        "alt": _short(row["caption"]),
        "text": _short(text["text"]),
        "became": _short(verdict["text"]),
        "value": verdict["value"],
        **writer._asdict(),
    }


def _short(text: str | None) -> str | None:
    return text if text is None or len(text) <= _CHARACTERS else text[: _CHARACTERS - 1] + "…"
