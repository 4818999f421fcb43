"""Score texts with a fastText classifier that the user trained on good and bad texts.

reads: caption
adds:  text_quality (float32, probability of the good class)
drops: text_low_quality
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator
from typing_extensions import Self

from pairmill.config import Config
from pairmill.errors import RecipeError
from pairmill.folding import fold
from pairmill.packages import needed

GOOD = "__label__good"
BAD = "__label__bad"


class QualityConfig(Config):
    """A text classifier of the user's own; see `train_quality`."""

    quality_model: Path | None = Field(
        None, description="fastText model with the labels good and bad (`train_quality`); null: off"
    )
    min_quality: float | None = Field(
        None, ge=0, le=1, description="least `text_quality`, 0-1; null: the column is filled and drops nothing"
    )

    @model_validator(mode="after")
    def _has_model(self) -> Self:
        if self.min_quality is not None and self.quality_model is None:
            raise ValueError("quality_model must be set where min_quality is; give the path of a trained model")
        return self


def quality_masks(rows: pa.Table, config: QualityConfig) -> dict[str, pa.ChunkedArray]:
    """Reason -> mask, if the rule is on; null where `text_quality` is null."""
    if config.min_quality is None:
        return {}
    return {"text_low_quality": pc.less(rows["text_quality"], np.float32(config.min_quality))}


def score_quality(texts: Sequence[str], model: Path) -> list[float]:
    """Probability, 0-1, that each text is of the good class.

    Raises RecipeError if `model` is not a fastText classifier with the labels good and bad.
    """
    loaded = load_quality(model)
    scores = []
    for text in texts:
        labels, probabilities = loaded.predict(_line(text), k=2)
        scores.append(min(1.0, dict(zip(labels, probabilities, strict=True)).get(GOOD, 0.0)))
    return scores


@lru_cache(maxsize=4)
def load_quality(model: Path) -> Any:
    """The classifier, loaded once per process; raises RecipeError if it is none."""
    with needed("fasttext"):
        import fasttext

    try:
        loaded = fasttext.load_model(str(model))
        labels, _ = loaded.predict("a", k=-1, threshold=-1.0)
    except (ValueError, RuntimeError) as error:
        raise _not_a_model(model, str(error)) from error
    if set(labels) != {GOOD, BAD}:
        raise _not_a_model(model, f"its labels are {', '.join(sorted(labels))}")
    return loaded


def train_quality(good: Sequence[str], bad: Sequence[str], path: Path | str, *, seed: int = 0) -> None:
    """Train a classifier of good against bad texts and save it at `path`, for `filter.quality_model`.

    Words and pairs of words, with character 2- to 5-grams so that unspaced scripts work too.  The smaller class is
    repeated up to the size of the larger, so that 0.5 is the boundary between equally many of both.  One thread: the
    same texts and seed give the same model.
    Raises ValueError if a class is empty.
    """
    with needed("fasttext_new"):
        import fasttext_new

    if not good or not bad:
        raise ValueError(f"train_quality must get texts of both classes, got {len(good)} good and {len(bad)} bad")
    size = max(len(good), len(bad))
    lines = []
    for at in range(size):
        lines.append(f"{GOOD} {_line(good[at % len(good)])}\n")
        lines.append(f"{BAD} {_line(bad[at % len(bad)])}\n")
    with tempfile.TemporaryDirectory() as folder:
        examples = Path(folder) / "examples.txt"
        examples.write_text("".join(lines), encoding="utf-8")
        model = fasttext_new.train_supervised(
            input=str(examples),
            dim=32,
            epoch=max(5, min(50, 200_000 // size)),
            lr=0.3,
            wordNgrams=2,
            minn=2,
            maxn=5,
            bucket=200_000,
            thread=1,
            seed=seed,
            verbose=0,
        )
    model.save_model(str(path))


def _line(text: str) -> str:
    """One line, without case, that fastText cannot read as a label."""
    return " ".join(fold(text).replace("__label__", "label").split())


def _not_a_model(model: Path, why: str) -> RecipeError:
    return RecipeError(
        "filter.quality_model must be a fastText classifier with the labels good and bad",
        value=f"{model}: {why}",
        fix="train one with curation.filters.quality.train_quality(good, bad, path)",
    )
