"""Texts that differ in case, width or spaces only are one text: the form they share, and its digest."""

from __future__ import annotations

import hashlib
import unicodedata


def fold(text: str) -> str:
    """NFKC, without case: `Ａpple` and `APPLE` are `apple`.  Spaces stay."""
    return unicodedata.normalize("NFKC", text).casefold()


def text_digest(text: str) -> bytes:
    """8 bytes that are equal for texts which differ in case, width (NFKC) or whitespace only.

    Runs store it: another rule would make the counts of texts that were planned before worthless.
    """
    folded = " ".join(fold(text).split())
    return hashlib.blake2b(folded.encode("utf-8", "surrogatepass"), digest_size=8).digest()
