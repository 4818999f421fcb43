"""Text transforms: what becomes of a row's text before a slot draws it; `data.texts[].transforms` names them.

A transform is one class in one file and one line in the registry below, or its import path in the recipe:

    class PrefixConfig(NamedConfig):
        prefix: str = Field(description="words put before the text")

    class Prefix(TextTransform):
        "Puts words before the text."

        Config = PrefixConfig

        def __call__(self, text, rng):
            return [text._replace(text=self.config.prefix + text.text)]

Reading happens in other processes, which get the configuration and make the transform from it, so its class must be
importable there, and it must keep nothing from one row to the next.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from pairmill.registry import NamedConfig, Registry, derived_from

if TYPE_CHECKING:
    import numpy as np


class Text(NamedTuple):
    """A text of a row.  language: as the dataset has it, or None.

    scores: how well dual encoders find that it fits the picture, by their names in the curation recipe; those asked for
    (`data.texts[].min_score`).
    """

    text: str
    language: str | None
    kind: str | None
    scores: tuple[tuple[str, float], ...] = ()


class TextTransform(ABC):
    """Base of every transform.  Config: its own keys; they decide what a batch holds, so none is `EXECUTION`."""

    Config: ClassVar[type[NamedConfig]] = NamedConfig

    def __init__(self, config: NamedConfig) -> None:
        self.config: Any = config

    @abstractmethod
    def __call__(self, text: Text, rng: np.random.Generator) -> list[Text]:
        """The texts that a slot may draw in place of `text`: another one, several, or none.  Blank ones are dropped.

        rng: the row's own, by (seed, row, epoch): with it alone, the same row gives the same texts wherever it is read.
        """


TEXT_TRANSFORMS: Registry[type[TextTransform]] = Registry(
    "data.texts.transforms",
    {
        "sentences": "training.data.sentences:Sentences",
        "mask_words": "training.data.mask_words:MaskWords",
        "eda": "training.data.eda:Eda",
    },
    check=derived_from(TextTransform, key="data.texts.transforms"),
)
