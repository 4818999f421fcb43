"""A caption as its sentences."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pydantic import Field

from pairmill.registry import NamedConfig
from training.data.text_transforms import Text, TextTransform

if TYPE_CHECKING:
    import numpy as np

#: DreamLIP splits at newlines, `</s>` and every full stop; ours leaves 3.5 and file names whole, and knows Chinese.
_SENTENCE_END = re.compile(r"\n|</s>|[.!?]+(?=\s|$)|[。！？]+")


class SentencesConfig(NamedConfig):
    """How many sentences a text has."""

    merged: int = Field(1, ge=1, description="sentences of a text, one after another; all if a caption has fewer")
    joined_by: str = Field(". ", description="what is between them (DreamLIP: `. `; LoTLIP, for BERT: ` [SEP] `)")

    def identity(self) -> dict[str, Any]:
        """As for every configuration, without the keys that have their defaults."""
        fields = type(self).model_fields
        return {n: value for n, value in super().identity().items() if value != fields[n].default}


class Sentences(TextTransform):
    """Splits at newlines, `</s>` and sentence ends; each sentence is a text, or each run of sentences (DreamLIP).

    DreamLIP (Zheng et al. 2024) has the raw caption in the first slot and sentences of the others' captions after it:
    `texts: [[{kind: alt}], [{kind: long, transforms: [sentences]}]]`, `slots: 7`.  Slots draw different texts; where a
    row has fewer than slots, its released code draws all with replacement, and slots here repeat none before all are
    used.  That code takes no run that ends at the last sentence, and lets runs reach from one caption into the next;
    here they end with their caption.
    """

    Config = SentencesConfig

    def __call__(self, text: Text, rng: np.random.Generator) -> list[Text]:
        """The sentences without their end marks, or every run of `merged` of them."""
        sentences, merged = split_sentences(text.text), self.config.merged
        starts = range(max(1, len(sentences) - merged + 1))
        return [text._replace(text=self.config.joined_by.join(sentences[at : at + merged])) for at in starts]


def split_sentences(text: str) -> list[str]:
    """The sentences of a caption, without their end marks."""
    return [part.strip() for part in _SENTENCE_END.split(text) if part.strip()]
