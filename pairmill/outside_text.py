"""Text that others wrote, in the form in which it can be stored: as UTF-8, in Arrow and in JSON."""

from __future__ import annotations


def storable(text: str) -> str:
    """`text` with U+FFFD for each half of a surrogate pair that stands alone; two halves that belong together join.

    Such halves come from headers that are not UTF-8 (as surrogate escapes) and from JSON ("\\ud83d"), and no UTF-8
    holds them.
    """
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
