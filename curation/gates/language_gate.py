"""Texts in another language than was asked for."""

from __future__ import annotations

from pydantic import Field

from curation.filters.evidence import DETECTORS
from curation.gates.gate import ACCEPTED, GateKeys, TextGate, Verdict, Written
from pairmill.languages import UNKNOWN, primary


class LanguageKeys(GateKeys):
    """When a text is in another language."""

    min_share: float = Field(
        0.05,
        ge=0,
        le=1,
        description="least share, 0-1, that the language has of the detectors' weights, with its near relatives "
        "(Galician: Portuguese and Spanish)",
    )


class LanguageGate(TextGate):
    """Refuse a text that is surely not in the language that its prompt or its translator was asked for.

    The value is the share of that language.  A text without letters passes, and so does a single word that the language
    may have borrowed, and one in a language that no detector knows.
    """

    Config = LanguageKeys
    libraries = DETECTORS

    def verdict(self, text: Written) -> Verdict:
        """The verdict on one text."""
        # Imported here: it loads the language models.
        from curation.filters.language import share_of

        if primary(text.language) == UNKNOWN:
            return ACCEPTED
        share = share_of(text.text, text.language or "")
        return Verdict(True, share) if share is not None and share < self.config.min_share else ACCEPTED
