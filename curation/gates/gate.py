"""What a gate is, and which gates there are.

A gate is one class in one file and one line of `GATES`.  It sees the texts that models wrote for the rows of a shard,
each with the row's own columns, and says of each whether it is accepted, and how it is changed:

    class Shouting(Gate):
        "Refuse texts in capitals."

        Config = GateKeys

        def __call__(self, texts):
            return [REFUSED if one.text.isupper() else ACCEPTED for one in texts]

    gate: {gates: [opener, language, length, "my_package.my_module:Shouting"]}
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import pyarrow as pa
from pydantic import Field

from pairmill.registry import NamedConfig, Registry, derived_from

#: Kinds of text that models write.
WrittenKind = Literal["short", "long", "rewritten", "tags", "question", "translated"]


class Written(NamedTuple):
    """A text that a model wrote.

    score: its mean token log-probability.  at: its place in `layout.written_texts` of its row.  source: the place of
    the text that it was made from; None: it was made from the picture.
    row: the row's columns that the gates read; always caption, language (of the alt text), and those of recaptions,
    rewrites and translations that there are.
    """

    text: str
    kind: str
    language: str | None
    prompt_id: str | None
    model: str | None
    score: float | None
    at: int
    source: int | None
    row: Mapping[str, Any]


class Verdict(NamedTuple):
    """What a gate says of a text.  value: the number that decided.  text: what takes its place; None: it stays."""

    refused: bool
    value: float | None = None
    text: str | None = None


ACCEPTED, REFUSED = Verdict(False), Verdict(True)


class GateKeys(NamedConfig):
    """The keys of a gate."""

    kinds: tuple[WrittenKind, ...] | None = Field(
        None, min_length=1, description="kinds of text that it looks at; null: all"
    )


class Gate(ABC):
    """Base of every gate.

    reads:     columns beside those of the texts themselves; a missing one is an error of the recipe.
    libraries: distributions whose release may change its verdicts.
    """

    Config: ClassVar[type[GateKeys]] = GateKeys
    reads: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()

    def __init__(self, config: Any) -> None:
        """config: an instance of `Config`.  Raises RecipeError for one that cannot work."""
        self.config = config

    def check(self, columns: Mapping[str, pa.DataType]) -> None:  # noqa: B027 - most gates have nothing to refuse
        """Raise RecipeError for columns of types that the gate cannot use; those of `reads` are among them."""

    @abstractmethod
    def __call__(self, texts: Sequence[Written]) -> Sequence[Verdict]:
        """A verdict for each of the texts of a shard, in their order."""


class TextGate(Gate):
    """Base of the gates that look at each text by itself."""

    def __call__(self, texts: Sequence[Written]) -> Sequence[Verdict]:
        """A verdict for each text."""
        return [self.verdict(one) for one in texts]

    @abstractmethod
    def verdict(self, text: Written) -> Verdict:
        """The verdict on one text."""


_HERE = "curation.gates"
GATES: Registry[type[Gate]] = Registry(
    "gate.gates",
    {
        "opener": f"{_HERE}.opener_gate:OpenerGate",
        "language": f"{_HERE}.language_gate:LanguageGate",
        "length": f"{_HERE}.length_gate:LengthGate",
        "log_probability": f"{_HERE}.probability_gate:ProbabilityGate",
        "image_text_score": f"{_HERE}.similarity_gate:SimilarityGate",
        "numbers": f"{_HERE}.number_gate:NumberGate",
        "rendered_text": f"{_HERE}.quotation_gate:QuotationGate",
        "names": f"{_HERE}.name_gate:NameGate",
    },
    check=derived_from(Gate, key="gate.gates"),
)
