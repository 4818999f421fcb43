"""Texts that differ only in case, width or spaces count as one text: the form they share, and its digest."""

from __future__ import annotations

import hashlib
import unicodedata


def fold(text: str) -> str:
    """NFKC, without case: `Ａpple` and `APPLE` are `apple`.  Spaces stay."""
    return unicodedata.normalize("NFKC", text).casefold()


def text_digest(text: str) -> bytes:
    """8 bytes that are equal for texts which differ only in case, width (NFKC) or whitespace.

    Runs store it: another rule would invalidate the counts of runs that are already planned.
    """
    folded = " ".join(fold(text).split())
    return hashlib.blake2b(folded.encode("utf-8", "surrogatepass"), digest_size=8).digest()
