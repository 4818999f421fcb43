"""Texts in another language than was asked for."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from curation.filters.evidence import DETECTORS
from curation.gates.gate import Gate, GateKeys, Verdict, Written
from curation.translation_checks import is_wrong_language
from pairmill.languages import UNKNOWN, primary


class LanguageKeys(GateKeys):
    """When a text is in another language."""

    min_score: float = Field(
        0.7, ge=0, le=1, description="least confidence of the detector, 0-1, to be sure of another language"
    )


class LanguageGate(Gate):
    """Refuse a text that is surely not in the language that its prompt or its translator was asked for.

    The value is the detector's confidence.  A text without letters passes, and so does one of which the detector is
    unsure, as it mostly is of one or two words.
    """

    Config = LanguageKeys
    libraries = DETECTORS

    def __call__(self, texts: Sequence[Written]) -> Sequence[Verdict]:
        """A verdict for each text."""
        # Imported here: it loads the language model.
        from curation.filters.language import detect

        return [
            self._verdict(one, language, score)
            for one, language, score in zip(texts, *detect([one.text for one in texts]), strict=True)
        ]

    def _verdict(self, text: Written, language: str, score: float) -> Verdict:
        if text.language is None or primary(text.language) == UNKNOWN:
            return Verdict(False)
        wrong = is_wrong_language(language, score, text.language, least_confidence=self.config.min_score)
        return Verdict(wrong, score if wrong else None)
