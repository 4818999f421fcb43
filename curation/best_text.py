"""Which of a row's texts is its caption: by kind or by score, and never one that fits less than the alt text."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from pairmill.config import Config
from pairmill.errors import RecipeError, nearest
from pairmill.languages import primary
from pairmill.layout import of_row_texts, scored_by

Scores = Sequence[float | None]


class CaptionConfig(Config):
    """Which text of a row is its `caption`."""

    prefer: tuple[str, ...] = Field(
        ("rewritten", "short", "long", "alt"),
        description="kinds of text, best first; the first that a row has is its caption",
    )
    best_of: bool = Field(
        False,
        description="whether the caption is the text of these kinds that fits the picture best, whatever its kind",
    )
    judge: str | None = Field(
        None,
        description="entry of `embed`, with texts: all, whose scores compare the texts of a row: a text that fits the "
        "picture less than an alt text in its language is not its caption; null: the first by name, without any "
        "nothing is compared",
    )
    recap_p: float = Field(
        1.0,
        ge=0,
        le=1,
        description="share of the rows whose caption may be a text that a model wrote, drawn by their uids; the others "
        "have their alt text, unless it is empty (Recap-DataComp-1B: 0.8)",
    )

    def check_judges(self, columns: Sequence[str]) -> None:
        """Raise RecipeError if no stage adds the scores that decide.  columns: that stages add."""
        judges = [judge for name in columns if (judge := scored_by(name)) is not None]
        if self.judge is not None and self.judge not in judges:
            raise RecipeError(
                "pack.judge must name an entry of `embed` that scores the texts that models write",
                value=self.judge,
                fix=f"perhaps you mean: {nearest(self.judge, judges)}"
                if judges
                else "add it to `embed`, with texts: all",
            )
        if self.best_of and not judges:
            raise RecipeError(
                "pack.best_of must have scores to compare",
                value="no entry of `embed` with texts: all",
                fix="add one, or leave pack.best_of out",
            )


def best_text(row: Mapping[str, Any], texts: Sequence[Mapping[str, Any]], config: CaptionConfig) -> str | None:
    """The caption of a row; None if it has no text at all.

    row: uid, and what `row_texts` reads; of its `score_NAME_texts` those that there are.  texts: its `row_texts`.
    """
    scores = _judged(row, config)
    if scores is None or len(scores) != len(texts):
        scores = [None] * len(texts)
    alt = texts[0]
    if alt["text"] and not _recaptioned(row["uid"], config.recap_p):
        return str(alt["text"])
    fitting = [
        (float("-inf") if score is None else score, -config.prefer.index(str(text["kind"])), -at, str(text["text"]))
        for at, (text, score) in enumerate(zip(texts, scores, strict=True))
        if text["text"] and text["kind"] in config.prefer and not (at and _is_worse(text, score, alt, scores[0]))
    ]
    if not fitting:
        return str(alt["text"]) if alt["text"] else None
    return max(fitting)[3] if config.best_of else max(fitting, key=lambda one: one[1:3])[3]


def _judged(row: Mapping[str, Any], config: CaptionConfig) -> Scores | None:
    """The scores of a row's accepted texts by the judge."""
    columns = {judge: name for name in row if (judge := scored_by(name)) is not None}
    judge = config.judge if config.judge is not None else min(columns, default=None)
    return of_row_texts(row, row[columns[judge]]) if judge in columns else None


def _is_worse(text: Mapping[str, Any], score: float | None, alt: Mapping[str, Any], alt_score: float | None) -> bool:
    """Whether a text fits less than the alt text.  Scores of texts in different languages are not comparable."""
    if score is None or alt_score is None or not alt["text"] or primary(text["language"]) != primary(alt["language"]):
        return False
    return score < alt_score


def _recaptioned(uid: str, share: float) -> bool:
    """Whether a row is one of those with a recaption: the same in any run, part and order."""
    drawn = hashlib.blake2b(uid.encode(), digest_size=8, person=b"recap_p").digest()
    return int.from_bytes(drawn, "big") < share * 2**64
