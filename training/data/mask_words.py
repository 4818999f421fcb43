"""A caption without some of its significant words."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field, PrivateAttr, model_validator

from pairmill.errors import RecipeError
from pairmill.registry import NamedConfig
from training.data.text_transforms import Text, TextTransform
from training.data.word_list import folded_words, read_word_list
from training.data.word_pieces import Piece, pieces

if TYPE_CHECKING:
    import numpy as np


class MaskWordsConfig(NamedConfig):
    """Which words are significant, how many of a text are masked, and what they become."""

    words: str | tuple[str, ...] = Field(
        description="significant words, or the path of a file with one a line, as `pairmill count-words` makes"
    )
    share: float = Field(0.15, gt=0, le=1, description="share of a text's words that are masked (0.15: the paper)")
    by: str = Field(
        "",
        description="what stands for a masked word: nothing, or the mask token of a tokenizer that has one ([MASK] of "
        "BERT's)",
    )
    fill: bool = Field(
        False,
        description="whether other words are masked where a text has fewer significant ones than its share (true: the "
        "released code)",
    )
    digest: str | None = Field(
        None, description="of the file, which a run notes by itself, so that it does not resume with another one"
    )

    #: The folded words; None where the file cannot be read, as where a finished run is looked at elsewhere.
    _known: frozenset[str] | None = PrivateAttr(None)

    @model_validator(mode="before")
    @classmethod
    def _noted(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and given.get("digest") is None and isinstance(given.get("words"), str):
            try:
                return {**given, "digest": read_word_list(given["words"])[1]}
            except RecipeError:
                return given  # `known` raises it where the words are used
        return given

    def model_post_init(self, context: Any) -> None:
        """Read the words once: they travel to the processes that read the data, which may not see the file."""
        if isinstance(self.words, tuple):
            self._known = folded_words(self.words)
        elif os.path.isfile(self.words):
            words, digest = read_word_list(self.words)
            self._known = words if digest == self.digest else None

    def known(self) -> frozenset[str]:
        """The folded words.  Raises RecipeError if there are none, or they are not those that a run began with."""
        if self._known:
            return self._known
        if isinstance(self.words, tuple):
            raise RecipeError("data.texts: words must hold a word", value="[]", fix="list some, or give a file")
        read_word_list(self.words)
        raise RecipeError(
            "data.texts: words must be the file that the run began with",
            value=f"{self.words}, which has changed",
            fix="restore it, or give the run a new run_dir and leave digest out",
        )


class MaskWords(TextTransform):
    """Masks 15 % of a text's words, only significant ones (SNP-S3's significant semantic masking, Dong et al. 2024).

    A slot of its own with this transform makes the masked text one more text of its image (`one_to_k`, `per_slot`, or a
    term that sees that slot), which then has to be known by the words that are left.  SNP-S3 predicts the masked words
    instead, for which a dual encoder has no head.  So a masked word is never replaced by another one, as a tenth is
    there: that text would be wrong.  A text stays as it is without significant words, and if no word would be left.

    Words are drawn by (seed, row, epoch), whichever process reads the row.
    """

    Config = MaskWordsConfig
    config: MaskWordsConfig

    def __init__(self, config: MaskWordsConfig) -> None:
        """Raises RecipeError as `MaskWordsConfig.known`."""
        super().__init__(config)
        self._known = config.known()
        self._longest = max(map(len, self._known))

    def __call__(self, text: Text, rng: np.random.Generator) -> list[Text]:
        """The text without them."""
        found = pieces(text.text, self._known, self._longest)
        chosen = self._chosen(found, rng)
        if len(chosen) == len(found) and not self.config.by:
            return [text]
        kept, at = [], 0
        for piece in chosen:
            kept += [text.text[at : piece.start], self.config.by]
            at = piece.end
        return [text._replace(text=" ".join("".join([*kept, text.text[at:]]).split()))] if chosen else [text]

    def _chosen(self, found: list[Piece], rng: np.random.Generator) -> list[Piece]:
        """The pieces to mask, in order.  Draws a number a piece, whatever becomes of them."""
        order = [found[at] for at in rng.random(len(found)).argsort()]
        number = max(1, int(self.config.share * len(found) + 0.5))
        first = [piece for piece in order if piece.word in self._known]
        if self.config.fill and first:
            first += [piece for piece in order if piece.word not in self._known]
        return sorted(first[:number])
