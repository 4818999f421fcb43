"""A caption as its sentences."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from training.data.text_transforms import Text, TextTransform

if TYPE_CHECKING:
    import numpy as np

#: DreamLIP splits at newlines, `</s>` and every full stop; ours leaves 3.5 and file names whole, and knows Chinese.
_SENTENCE_END = re.compile(r"\n|</s>|[.!?]+(?=\s|$)|[。！？]+")


class Sentences(TextTransform):
    """Splits at newlines, `</s>` and sentence ends; each sentence is a text (DreamLIP, Zheng et al. 2024)."""

    def __call__(self, text: Text, rng: np.random.Generator) -> list[Text]:
        """The sentences, without their end marks."""
        return [text._replace(text=sentence) for sentence in split_sentences(text.text)]


def split_sentences(text: str) -> list[str]:
    """The sentences of a caption, without their end marks."""
    return [part.strip() for part in _SENTENCE_END.split(text) if part.strip()]
