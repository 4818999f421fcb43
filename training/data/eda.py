"""A caption with words left out or swapped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from pairmill.errors import RecipeError
from pairmill.registry import NamedConfig
from training.data.text_transforms import Text, TextTransform
from training.data.word_list import folded_words

if TYPE_CHECKING:
    import numpy as np

#: English words that say little by themselves.
_STOP_WORDS = (
    *("a", "an", "the", "this", "that", "these", "those", "some", "any", "each", "such", "same", "other", "own"),
    *("i", "me", "my", "we", "us", "our", "you", "your", "he", "him", "his", "she", "her", "it", "its", "they", "them"),
    *("their", "who", "whom", "which", "what", "where", "when", "why", "how"),
    *("of", "in", "on", "at", "by", "for", "with", "from", "to", "into", "onto", "over", "under", "above", "below"),
    *("between", "through", "during", "before", "after", "about", "against", "up", "down", "out", "off", "again"),
    *("and", "or", "but", "nor", "so", "if", "than", "then", "as", "because", "while", "until"),
    *("am", "is", "are", "was", "were", "be", "been", "being", "have", "has", "had", "having", "do", "does", "did"),
    *("will", "would", "can", "could", "shall", "should", "may", "might", "must"),
    *("not", "no", "only", "very", "too", "also", "just", "here", "there", "all", "both", "few", "more", "most"),
)


class EdaConfig(NamedConfig):
    """How likely each edit is."""

    stop_p: float = Field(0.8, ge=0, le=1, description="probability that stop words are left out (0.8: CLIP-Rocket)")
    stop_words: tuple[str, ...] = Field(_STOP_WORDS, description="what they are; English by default")
    swap: float = Field(0.4, ge=0, description="weight of swapping two words (0.4: CLIP-Rocket)")
    delete: float = Field(0.2, ge=0, description="weight of leaving words out at random (0.2: CLIP-Rocket)")
    keep: float = Field(0.0, ge=0, description="weight of neither (0: CLIP-Rocket)")
    delete_p: float = Field(
        0.1, ge=0, le=1, description="probability of each word, where words are left out (0.1: EDA)"
    )

    @model_validator(mode="after")
    def _some(self) -> EdaConfig:
        if not self.swap + self.delete + self.keep > 0:
            raise RecipeError(
                "data.texts: swap, delete and keep of eda must not all be 0",
                value=f"{self.swap}, {self.delete}, {self.keep}",
                fix="give one of them a weight",
            )
        return self


class Eda(TextTransform):
    """Leaves out stop words, then swaps two words or leaves some out (EDA, Wei and Zou 2019, as CLIP-Rocket uses it).

    For `data.views.transforms`.  CLIP-Rocket also replaces words by synonyms of WordNet, with weight 0.4; that is left
    out.  Words are what spaces separate; in a script without spaces a text stays as it is.  No text is emptied.
    """

    Config = EdaConfig
    config: EdaConfig

    def __init__(self, config: EdaConfig) -> None:
        """See `TextTransform`."""
        super().__init__(config)
        self._stop = folded_words(config.stop_words)

    def __call__(self, text: Text, rng: np.random.Generator) -> list[Text]:
        """The edited text."""
        config = self.config
        stop, which = rng.random(2)
        words = text.text.split()
        if stop < config.stop_p:
            words = [word for word in words if not folded_words([word.strip(".,;:!?\"'()")]) <= self._stop] or words
        which *= config.swap + config.delete + config.keep
        if which < config.swap:
            one, other = rng.integers(len(words), size=2).tolist()
            words[one], words[other] = words[other], words[one]
        elif which < config.swap + config.delete:
            stays = rng.random(len(words)) >= config.delete_p
            words = [word for word, there in zip(words, stays.tolist(), strict=True) if there] or words[:1]
        return [text._replace(text=" ".join(words))]
