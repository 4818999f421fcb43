"""Texts that are far too short or too long for their kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, field_validator

from curation.filters.words import words_of
from curation.gates.gate import ACCEPTED, GateKeys, TextGate, Verdict, Written, WrittenKind

#: Least and most; null: no bound.
Bounds = tuple[Annotated[int, Field(ge=1)] | None, Annotated[int, Field(ge=1)] | None]

#: What no text of a kind should have, whoever wrote it.  A caption of a sentence has 8 to 20 words (COCO, CC3M: 10),
#: the longest alt texts about 50 (CC3M's limit).  Long captions have 50 to 150 words (ShareGPT4V, LoTLIP), the longest
#: of DCI about 1,000.
_USUAL_WORDS: Mapping[WrittenKind, Bounds] = {
    "short": (1, 60),
    "long": (1, 1000),
    "rewritten": (1, 1000),
    "translated": (1, None),
}


class LengthKeys(GateKeys):
    """The bounds of each kind."""

    words: Mapping[WrittenKind, Bounds] = Field(
        _USUAL_WORDS,
        description="kind of text -> least and most words, in scripts without spaces characters; null, and a kind that "
        "is not named: any",
    )
    characters: Mapping[WrittenKind, Bounds] = Field({}, description="kind of text -> least and most characters")

    @field_validator("words", "characters")
    @classmethod
    def _in_order(cls, value: Mapping[WrittenKind, Bounds]) -> Mapping[WrittenKind, Bounds]:
        for kind, (least, most) in value.items():
            if least is not None and most is not None and least > most:
                raise ValueError(f"the least must be at most the most, got {kind}: [{least}, {most}]")
        return value


class LengthGate(TextGate):
    """Refuse a text with fewer or more words or characters than its kind may have; the value is how many it has."""

    Config = LengthKeys

    def verdict(self, text: Written) -> Verdict:
        """The verdict on one text."""
        for bounds, found in ((self.config.words, len(words_of(text.text))), (self.config.characters, len(text.text))):
            least, most = bounds.get(text.kind, (None, None))
            if (least is not None and found < least) or (most is not None and found > most):
                return Verdict(True, float(found))
        return ACCEPTED
