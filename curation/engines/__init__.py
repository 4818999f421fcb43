"""Engines that generate text: what the recaption and translate stages ask of them, and what they get back.

Read in this order: this file (the contract), guard (no request can hurt another), checkpoint (which files are loaded),
decoding (batched generation with scores), then one file an engine.  An engine answers every request, in order; what it
cannot answer is a `Failure` in that request's place, never an exception.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class CaptionRequest:
    """One text wanted of one image."""

    encoded: bytes
    """The image file as this pipeline re-encoded it: the only bytes that may leave the process."""
    image: Image.Image
    """The same image, decoded, RGB."""
    prompt: str
    max_new_tokens: int
    seed: int
    """Of this request alone, so that sampling does not depend on its neighbours; unused when greedy."""


@dataclass(frozen=True)
class Generated:
    """A text an engine wrote."""

    text: str
    score: float | None
    """Mean log-probability (nats) of its tokens, end-of-text included; None if the engine does not tell."""
    cut: bool = False
    """The text was still going on when it reached its token limit."""


@dataclass(frozen=True)
class Failure:
    """Why there is no text: the exception's name and message on one line, without the request's content."""

    error: str


class Captioner(Protocol):
    """Writes texts about images."""

    rows_per_call: int
    """How many images to hand over at once: enough to keep the engine busy."""

    def caption(self, requests: Sequence[CaptionRequest]) -> list[Generated | Failure]:
        """One answer a request, in order."""
        ...


class Translator(Protocol):
    """Turns texts of one language into another.  Languages are ISO 639-1 codes, with `zh-hant` beside `zh`."""

    def supports(self, source: str, target: str) -> bool:
        """Whether the model was made for this direction."""
        ...

    def translate(self, texts: Sequence[str], *, source: str, target: str) -> list[Generated | Failure]:
        """One answer a text, in order."""
        ...
