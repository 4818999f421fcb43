"""Kinds of evaluation dataset: what the rows mean, and which features the metrics are given.

A kind is one class in one file and one line in the registry below, or its import path in the recipe.  The features that
it gives have names; the built-in kinds and metrics share these:

    image_ND    float32  unit embeddings of the N images
    same_N      int64    equal for images whose pictures are equal
    text_UD     float32  unit embeddings of the U texts that differ to the tokenizer
    image_P, text_P      int64, rows of the two: P pairs of an image and a text of its own
    language_P, kind_P   lists of str: language and kind of the text of each pair
    class_CD    float32  unit classifier, a row for each of C classes
    label_N     int64    class of each image
    name_C      int64    equal for classes of the same name to the tokenizer

Its module imports torch only in `__call__`, since it is imported wherever a recipe is read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from pairmill.errors import InputError, RecipeError
from pairmill.registry import NamedConfig, Registry, derived_from, require_names

if TYPE_CHECKING:
    from training.evaluate.config import EvaluateConfig, EvaluateDatasetConfig
    from training.evaluate.encoder import EncodedRows, Encoder


class Embedded(NamedTuple):
    """What one record is measured on.

    language: ISO code; several are joined by commas.  images, texts: how many take part.  features: by name.  skipped:
    rows that take no part, by reason.
    """

    language: str
    images: int
    texts: int
    features: Mapping[str, Any]
    skipped: dict[str, int]


class DatasetKind(ABC):
    """Base of every kind, made for one dataset of a recipe.

    Config: its own keys.  task: CLIP_benchmark's name of what is done, for the records.  gives: names of the features.
    """

    Config: ClassVar[type[NamedConfig]] = NamedConfig
    task: ClassVar[str]
    gives: ClassVar[tuple[str, ...]]

    def __init__(self, name: str, dataset: EvaluateDatasetConfig, evaluate: EvaluateConfig) -> None:
        """name: of the dataset in the recipe."""
        self.name, self.dataset, self.evaluate, self.config = name, dataset, evaluate, dataset.kind

    @property
    def languages(self) -> Sequence[str] | None:
        """ISO codes of the texts to use; None: all."""
        return self.dataset.languages or self.evaluate.languages

    def check(self) -> None:  # noqa: B027  # there is nothing to check by default
        """Check without a model what would make `__call__` fail, except the rows.  Raises RecipeError."""

    @abstractmethod
    def __call__(self, encoder: Encoder) -> Iterator[Embedded]:
        """What the records of this dataset are measured on.  Raises InputError if no row is of use."""

    def refuse_empty(self, rows: EncodedRows, fix: str) -> None:
        """Raise InputError if nothing was chosen."""
        if not rows.chosen:
            counts = ", ".join(f"{reason}: {count}" for reason, count in rows.skipped.items())
            raise InputError(f"evaluate.datasets.{self.name} must have a row to evaluate on", value=counts, fix=fix)


def _check_kind(name: str, found: Any) -> None:
    derived_from(DatasetKind, key="evaluate.datasets.kind")(name, found)
    require_names(name, found, "gives", what="a kind of evaluate.datasets", example='("image_ND", "text_UD")')
    if not isinstance(getattr(found, "task", None), str):
        raise RecipeError(
            "a kind of evaluate.datasets must declare `task`, its name in the records",
            value=name,
            fix='write task = "…"',
        )


KINDS: Registry[type[DatasetKind]] = Registry(
    "evaluate.datasets.kind",
    {
        "retrieval": "training.evaluate.retrieval:Retrieval",
        "zero_shot": "training.evaluate.zero_shot:ZeroShot",
    },
    check=_check_kind,
)
